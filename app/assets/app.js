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

  // The step that was asked for. A page shows an asked step as the last of its own where it has no
  // later one; that is no move of the reader's. One who moves to the last wants the last, wherever.
  function steppedTo(shown, last) {
    const text = new URLSearchParams(window.location.search).get("step");
    const asked = text !== null && /^[0-9]{1,9}$/.test(text) ? Number(text) : null;
    if (asked !== null && (shown === asked || shown === Math.min(asked, last))) return asked;
    return shown === last ? null : shown;
  }

  // The panels' own settings: those on the page now, and those of other pages as they were.
  function panelSettings(controls, before, standard) {
    const settings = new Map();
    const known = before === undefined || before === null ? window.location.search : before;
    new URLSearchParams(known).forEach((value, name) => {
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

  // Copy, and say so; a browser that refuses to copy shows the text instead.
  function copied(text, said) {
    const done = { action: "show", message: said, autoClose: 2000, color: "gray", id: "copied-" + Date.now() };
    const failed = () => window.prompt("Copy this:", text);
    if (navigator.clipboard) navigator.clipboard.writeText(text).catch(failed);
    else failed();
    return [done];
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    workbench: {
      // Controls -> the query string, which every panel is drawn from and the address shows.
      address: function (...given) {
        const [lastStep, before, standard] = given.slice(-3);
        if (!standard) return skip();
        const values = given.slice(0, NAMES.length);
        const at = NAMES.indexOf("step");
        values[at] = steppedTo(values[at], lastStep);
        // The arms that an address leaves out are those beside the standard baseline, no other.
        const usual = values[0] === standard.baseline
          ? standard : Object.assign({}, standard, { compare: undefined });
        const query = new URLSearchParams();
        NAMES.forEach((name, i) =>
          written(values[i], usual[name]).forEach((text) => query.append(name, text)));
        const controls = window.dash_clientside.callback_context.inputs_list[NAMES.length];
        panelSettings(controls, before, standard).forEach(([k, v]) => query.append(k, v));
        const text = query.toString() ? "?" + query.toString() : "";
        const address = window.location.pathname + text;
        if (address !== window.location.pathname + window.location.search)
          window.history.replaceState(window.history.state, "", address);
        return text; // even if it is the same: what waits for it on a new page must be drawn
      },

      // Nothing is compared with itself: the baseline is neither offered nor chosen beside itself.
      others: function (baseline, compared, arms) {
        const rest = (names) => (names || []).filter((name) => name !== baseline);
        const kept = rest(compared);
        return [rest(arms), kept.length === (compared || []).length ? skip() : kept];
      },

      // Links keep what was chosen.
      links: function (query, path, ids) {
        return [
          ids.map((id) => id.page + (query || "")),
          ids.map((id) => id.page === path),
        ];
      },

      // What decides which controls a page has.
      chosen: function (_view, baseline, compare, attack, before) {
        const now = [baseline, compare, attack];
        return JSON.stringify(now) === JSON.stringify(before) ? skip() : now;
      },

      navbar: function (opened, navbar) {
        return Object.assign({}, navbar, { collapsed: { mobile: !opened } });
      },

      close: function () {
        return false;
      },

      toggle: function (clicks, theme) {
        return clicks ? (theme === "dark" ? "light" : "dark") : skip();
      },

      scheme: function (theme) {
        const dark = theme === "dark";
        document.documentElement.style.colorScheme = dark ? "dark" : "light";
        return [dark ? "dark" : "light", dark ? "☀" : "☾"];
      },

      open: function (clicks) {
        return clicks ? true : skip();
      },

      copyLink: function (clicks) {
        return clicks ? copied(window.location.href, "Link copied") : skip();
      },

      copyText: function (code) {
        return code ? copied(code.text, "Python copied") : skip();
      },

      // Which panel's menu was used, and the how-manieth time, so that a second time counts too.
      clicked: function () {
        const cause = window.dash_clientside.callback_context.triggered[0];
        if (!cause || !cause.value) return skip();
        const id = JSON.parse(cause.prop_id.slice(0, cause.prop_id.lastIndexOf(".")));
        return { figure: id.figure, clicks: cause.value };
      },

      size: function () {
        return window.innerHeight;
      },

      // The numbers beside the sliders.
      values: function (...given) {
        const ids = given[given.length - 1];
        const words = {
          phi: (v) => v.toFixed(2),
          stability_margin: (v) => "±" + (100 * v).toFixed(1) + " pt",
          utility_floor: (v) => v.toFixed(2),
          step: (v) => String(v),
        };
        const order = ["phi", "stability_margin", "utility_floor", "step"];
        return ids.map((id) => {
          const value = given[order.indexOf(id.of)];
          return value === null || value === undefined ? "" : words[id.of](value);
        });
      },

      // The run table: its filter, and its look by day and by night.
      grid: function (filter, theme, options) {
        const look = theme === "dark"
          ? "themeQuartz.withPart(agGrid.colorSchemeDark)" : "themeQuartz";
        return Object.assign({}, options, { quickFilterText: filter || "", theme: { function: look } });
      },

      reveal: function (clicks, prompt) {
        return clicks ? prompt : skip();
      },

      // What the page was opened with was not picked: `opened` is what was asked, and what stood.
      pickPrompt: function (prompt, before, opened) {
        const asked = before === undefined ? null : before;
        const untouched = opened && opened[0] === asked && opened[1] === prompt;
        return prompt && prompt !== before && !untouched ? prompt : skip();
      },
    },
  });
})();
