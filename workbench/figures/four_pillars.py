"""The four conditions of immunisation, an arm a line: what is measured, and what is not.

Rosati, Wehner, Williams, Bartoszcze, Sajjad & Rudzicz, "Immunization against harmful fine-tuning
attacks", EMNLP Findings 2024, arXiv:2402.16382, section 3.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures._base import Figure
from workbench.figures._frames import Frames, in_order
from workbench.figures._params import Params
from workbench.figures._style import UNDEFENDED, Theme, method_of
from workbench.figures._text import MISSING, escape, number, seeds_and
from workbench.figures.attack_budget import VERDICTS, AttackBudgetParams
from workbench.figures import attack_budget
from workbench.pillars import Resistance, Stability, Thresholds, resistance, stability
from workbench.report import ALL, CONTROL, DEFENDED
from workbench.rows import Cost, Metric

PILLARS = ("resistance", "stability", "generalisation", "trainability")
