// What must happen in the browser: the address follows the controls, and the theme follows the view.
(function () {
  "use strict";
  const skip = () => window.dash_clientside.no_update;
  const NAMES = [
    "baseline", "compare", "attack", "phi", "stability_margin", "utility_floor",
    "step", "prompt", "theme",
  ];

  // One value as the strings it has in the address; none when it is as it comes by default.
  function written(value, standard) {
    if (JSON.stringify(value) === JSON.stringify(standard)) return [];
    if (value === null || value === undefined) return [];
    if (Array.isArray(value)) return value.length ? value : [""];
    return [String(value)];
  }

  // The panels' own settings: those on the page now, and those of other pages as they were.
  function panelSettings(controls, before, standard) {
    const settings = new Map();
    new URLSearchParams(before || "").forEach((value, name) => {
      if (name.includes(".")) settings.set(name, value);
    });
    for (const control of controls) {
      const name = control.id.figure + "." + control.id.param;
      const value = control.value === null || control.value === undefined ? "" : String(control.value);
      if (value === standard[name]) settings.delete(name);
      else settings.set(name, value);
    }
    return [...settings].sort((a, b) => (a[0] < b[0] ? -1 : 1));
  }

  function copy(text) {
    if (navigator.clipboard) navigator.clipboard.writeText(text).catch(() => {});
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    workbench: {
      // Controls -> the query string, which every panel is drawn from and the address shows.
      address: function (...given) {
        const [before, standard] = given.slice(-2);
        if (!standard) return skip();
        const values = given.slice(0, NAMES.length);
        const query = new URLSearchParams();
        NAMES.forEach((name, i) =>
          written(values[i], standard[name]).forEach((text) => query.append(name, text)));
        const controls = window.dash_clientside.callback_context.inputs_list[NAMES.length];
        panelSettings(controls, before, standard).forEach(([k, v]) => query.append(k, v));
        const text = query.toString() ? "?" + query.toString() : "";
        const address = window.location.pathname + text;
        if (address !== window.location.pathname + window.location.search)
          window.history.replaceState(window.history.state, "", address);
        return text === before ? skip() : text;
      },

      // Links keep what was chosen.
      links: function (query, path, ids) {
        return [
          ids.map((id) => id.page + (query || "")),
          ids.map((id) => id.page === path),
        ];
      },

      // What decides which controls a page has.
      chosen: function (baseline, compare, attack, before) {
        const now = [baseline, compare, attack];
        return JSON.stringify(now) === JSON.stringify(before) ? skip() : now;
      },

      toggle: function (clicks, theme) {
        return clicks ? (theme === "dark" ? "light" : "dark") : skip();
      },

      scheme: function (theme) {
        const dark = theme === "dark";
        document.documentElement.style.colorScheme = dark ? "dark" : "light";
        return [dark ? "dark" : "light", dark ? "☀" : "☾"];
      },

      open: function (...given) {
        return given.slice(0, -1).some(Boolean) ? true : skip();
      },

      copyLink: function (clicks) {
        if (!clicks) return skip();
        copy(window.location.href);
        return "Link copied";
      },

      copyCode: function (clicks, code) {
        if (clicks) copy(code);
        return skip();
      },

      show: function (clicks) {
        return clicks % 2 ? ["answers shown", "Hide text"] : ["answers", "Show text"];
      },
    },
  });
})();
