"""Tiny random models of every family that is promised, and what each of them lacks."""

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.tiny import VOCABULARY

COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIZES = {
    **COMMON,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
HEADS = {"head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
DEEPSEEK = {
    **LATENT,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}

CONFIGS = {
    "apertus": ("ApertusConfig", SIZES),
    "bloom": ("BloomConfig", {**COMMON, "n_layer": 2, "n_head": 4}),
    "codegen": ("CodeGenConfig", {**COMMON, **GPT2_SIZES, "rotary_dim": 4, "n_ctx": 128}),
    "cohere": ("CohereConfig", SIZES),
    "cohere2": ("Cohere2Config", SIZES),
    "deepseek_v3": ("DeepseekV3Config", {**SIZES, **DEEPSEEK}),
    "falcon": ("FalconConfig", {**COMMON, "num_kv_heads": 4}),
    "falcon-new": (
        "FalconConfig",
        {**COMMON, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "gemma": ("GemmaConfig", SIZES | HEADS),
    "gemma2": ("Gemma2Config", SIZES | HEADS),
    "gemma3": ("Gemma3TextConfig", SIZES | HEADS),
    "glm": ("GlmConfig", SIZES | HEADS),
    "glm4": ("Glm4Config", SIZES | HEADS),
    "gpt2": ("GPT2Config", {**COMMON, **GPT2_SIZES}),
    "gpt_bigcode": ("GPTBigCodeConfig", {**COMMON, **GPT2_SIZES}),
    "gpt_neo": (
        "GPTNeoConfig",
        {**COMMON, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    ),
    "gpt_neox": ("GPTNeoXConfig", {**COMMON, "intermediate_size": 48}),
    "gpt_neox-sequential": (
        "GPTNeoXConfig",
        {**COMMON, "intermediate_size": 48, "use_parallel_residual": False},
    ),
    "gpt_oss": ("GptOssConfig", SIZES | HEADS | LOCAL_EXPERTS),
    "gptj": ("GPTJConfig", {**COMMON, **GPT2_SIZES, "rotary_dim": 4}),
    "granite": ("GraniteConfig", SIZES | {"residual_multiplier": 0.22}),
    "granitemoe": ("GraniteMoeConfig", SIZES | LOCAL_EXPERTS | {"residual_multiplier": 0.22}),
    "llama": ("LlamaConfig", SIZES),
    "mistral": ("MistralConfig", SIZES),
    "mixtral": ("MixtralConfig", SIZES | LOCAL_EXPERTS),
    "mpt": (
        "MptConfig",
        {**COMMON, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    ),
    "nemotron": ("NemotronConfig", SIZES),
    "olmo": ("OlmoConfig", SIZES),
    "olmo2": ("Olmo2Config", SIZES),
    "olmo3": ("Olmo3Config", SIZES),
    "olmoe": ("OlmoeConfig", SIZES | {"num_experts": 4, "num_experts_per_tok": 2}),
    "opt": (
        "OPTConfig",
        {**COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 128},
    ),
    "phi": ("PhiConfig", SIZES),
    "phi3": ("Phi3Config", SIZES),
    "phimoe": ("PhimoeConfig", SIZES | LOCAL_EXPERTS),
    "qwen2": ("Qwen2Config", SIZES),
    "qwen2_moe": ("Qwen2MoeConfig", SIZES | EXPERTS | {"shared_expert_intermediate_size": 16}),
    "qwen3": ("Qwen3Config", SIZES | HEADS),
    "qwen3_moe": ("Qwen3MoeConfig", SIZES | EXPERTS | HEADS),
    "smollm3": ("SmolLM3Config", SIZES),
    "stablelm": ("StableLmConfig", SIZES),
    "stablelm-parallel": ("StableLmConfig", SIZES | {"use_parallel_residual": True}),
    "starcoder2": ("Starcoder2Config", SIZES),
}
RECURRENT = {
    "mamba": ("MambaConfig", {**COMMON, "state_size": 8}),
    "mamba2": (
        "Mamba2Config",
        {**COMMON, "state_size": 8, "head_dim": 8, "num_heads": 8, "n_groups": 1},
    ),
}
PARALLEL = {
    "codegen", "cohere", "cohere2", "falcon", "falcon-new", "gpt_neox", "gptj", "phi",
    "stablelm-parallel",
}  # fmt: skip
"""Attention and MLP side by side: there is no `resid_mid`."""
SCALED = {"granite", "granitemoe"}
"""What attention and MLP give is scaled before it is added: no `attn_out`, no `mlp_out`."""
FLAT = {"opt"}
"""The MLP is no module, and works on flattened tokens: nothing of it is recorded."""


def make(family: str, **changes: object) -> PreTrainedModel:
    """A model in evaluation mode, the same each time."""
    kind, config = (CONFIGS | RECURRENT)[family]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**config | changes))
    made.config.architectures = [type(made).__name__]
    return made.eval()


def lacking(family: str) -> set[str]:
    """Short names of the sites that a family does not have."""
    if family in PARALLEL:
        return {"resid_mid"}
    if family in SCALED:
        return {"attn_out", "mlp_out"}
    return {"resid_mid", "mlp_module_out", "mlp_out"} if family in FLAT else set()
