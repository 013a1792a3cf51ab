// SPDX-License-Identifier: Apache-2.0
// Keeps the page up to date and lets it be used by keyboard. Everything also works by links and forms alone.
"use strict";
(() => {
  const body = document.body;
  const language = document.documentElement.lang;
  const $ = (selector) => document.querySelector(selector);

  // Times
  function age(at, now) {
    const seconds = Math.floor((now - at) / 1000);
    const gone = seconds < 0 && seconds >= -5 ? 0 : seconds; // clocks are apart
    const say = (text, number) => text.replace("{n}", number);
    if (gone >= 0 && gone < 60) return say(body.dataset.tS, gone < 10 ? gone : gone - (gone % 5));
    if (gone >= 60 && gone < 3600) return say(body.dataset.tMin, Math.floor(gone / 60));
    if (gone < 0 && gone > -60) return say(body.dataset.tInS, -gone);
    if (gone <= -60 && gone > -3600) return say(body.dataset.tInMin, Math.floor(-gone / 60));
    return null;
  }
  function tell() {
    const now = Date.now();
    for (const one of document.querySelectorAll('time[data-kind="age"]')) {
      const said = age(Date.parse(one.dateTime), now);
      if (said && one.textContent !== said) one.textContent = said;
    }
  }
  setInterval(tell, 5000);

  // What has changed
  const keep = {
    beforeNodeMorphed: (node) => !(node.nodeType === 1 && node.hasAttribute("data-keep")),
    beforeAttributeUpdated: (name, node) =>
      !(name === "open" && node.nodeName === "DETAILS") &&
      !(["value", "checked"].includes(name) && ["INPUT", "TEXTAREA", "SELECT"].includes(node.nodeName)) &&
      !(name === "hidden" && node.hasAttribute("data-keep")) && name !== "data-current",
  };
  let wanted = new Set();
  let everything = false;
  let running = false;
  let pause = 0;
  function refresh(topics) {
    if (topics === null) everything = true;
    else for (const topic of topics) wanted.add(topic);
    if (!running && !document.hidden) {
      running = true;
      setTimeout(swap, pause);
    }
  }
  const live = (section) =>
    everything || section.dataset.topics.split(" ").some((topic) => wanted.has(topic));
  async function swap() {
    const ids = [...document.querySelectorAll("[data-topics]")].filter(live).map((section) => section.id);
    wanted = new Set();
    everything = false;
    const began = performance.now();
    try {
      if (ids.length) {
        const answer = await fetch(body.dataset.address, { headers: { Accept: "text/html" }, redirect: "manual" });
        if (answer.type === "opaqueredirect" || answer.status === 401) return say(body.dataset.tSignedOut, "/login");
        if (answer.ok) {
          const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
          for (const id of ids) {
            const now = document.getElementById(id);
            const next = fresh.getElementById(id);
            if (now && next) Idiomorph.morph(now, next, { morphStyle: "outerHTML", ignoreActiveValue: true, callbacks: keep });
          }
          tell();
        }
      }
    } catch {
      everything = true;
    } finally {
      running = false;
      // A page that is dear to make is asked for less often.
      pause = Math.max(300, 3 * (performance.now() - began));
      if (wanted.size || everything) refresh([]);
    }
  }

  // The reader's zone, so that the server writes times in it.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  if (zone !== body.dataset.zone && document.cookie.indexOf(`zone=${zone}`) < 0) {
    document.cookie = `zone=${zone}; path=/; max-age=31536000; samesite=lax`;
    if (body.dataset.live) refresh(null);
  }

  const connection = $("#connection");
  function say(text, link) {
    connection.hidden = !text;
    connection.textContent = text || "";
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link;
      anchor.textContent = " →";
      connection.append(anchor);
    }
  }
  if (body.dataset.live) {
    let heard = Date.now();
    let lost = false;
    let stream = null;
    const word = () => {
      heard = Date.now();
      if (lost) {
        lost = false;
        say("");
        refresh(null);
      }
    };
    const gone = () => {
      if (lost || heard === Infinity || !stream) return;
      lost = true;
      say(`${body.dataset.tLost} ${new Date(heard).toLocaleTimeString(language, { hour12: false })}`);
    };
    const listen = () => {
      stream = new EventSource(body.dataset.live);
      stream.onmessage = (event) => {
        word();
        refresh(event.data.split(" "));
      };
      stream.addEventListener("beat", word);
      stream.addEventListener("signed-out", () => {
        stream.close();
        say(body.dataset.tSignedOut, "/login");
        lost = false;
        heard = Infinity;
      });
      stream.onerror = () => setTimeout(() => stream && stream.readyState !== 1 && gone(), 1500);
    };
    // A browser has six connections for all tabs: those that nobody sees let theirs go.
    const look = () => {
      if (document.hidden) {
        if (stream) stream.close();
        stream = null;
      } else if (!stream && heard !== Infinity) {
        heard = Date.now();
        listen();
      }
    };
    look();
    setInterval(() => Date.now() - heard > 30000 && gone(), 2000);
    document.addEventListener("visibilitychange", () => {
      look();
      if (!document.hidden) refresh(null);
    });
  }

  // Keyboard
  const keys = $("#keys");
  const on = $("#keys-on");
  on.checked = localStorage.getItem("keys") !== "off";
  on.addEventListener("change", () => localStorage.setItem("keys", on.checked ? "on" : "off"));
  document.querySelectorAll("[data-keys]").forEach((one) => one.addEventListener("click", () => keys.showModal()));
  const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.offsetParent);
  const current = () => document.activeElement.closest("[data-row]") || $("[data-row][data-current]");
  function go(step) {
    const all = rows();
    if (!all.length) return;
    const now = all.indexOf(current());
    const next = all[Math.min(all.length - 1, Math.max(0, now < 0 ? 0 : now + step))];
    document.querySelectorAll("[data-current]").forEach((row) => row.removeAttribute("data-current"));
    next.setAttribute("data-current", "");
    (next.querySelector("a.main") || next).focus();
    next.scrollIntoView({ block: "nearest" });
  }
  let before = "";
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select");
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    if (!on.checked || keys.open) return;
    const key = event.key;
    if (before === "g") {
      before = "";
      const link = document.querySelector(`[data-go="${CSS.escape(key)}"]`);
      if (link) {
        event.preventDefault();
        location.assign(link.href);
        return;
      }
    }
    if (key === "g") {
      before = "g";
      setTimeout(() => (before = ""), 1500);
    } else if (key === "/") {
      const field = $("#q");
      if (field) {
        event.preventDefault();
        field.focus();
        field.select();
      }
    } else if (key === "?") keys.showModal();
    else if (key === "j" || key === "k") {
      event.preventDefault();
      go(key === "j" ? 1 : -1);
    } else if (key === "c" || key === "d") {
      const all = [...document.querySelectorAll(`main [data-key="${key}"]`)];
      const row = current();
      const button = row ? row.querySelector(`[data-key="${key}"]`) : all.length === 1 ? all[0] : null;
      if (button) {
        event.preventDefault();
        button.click();
      } else if (all.length > 1) go(0);
    }
  });
  const first = $("[data-focus]");
  if (first) first.focus();

  // Choose all
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]"))
      document.querySelectorAll('input[name="letter"]').forEach((one) => (one.checked = event.target.checked));
  });

  // Logs as they are written
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-follow]");
    if (!button) return;
    const pane = document.getElementById(button.getAttribute("aria-controls"));
    if (button.stream) {
      button.stream.close();
      button.stream = null;
      button.textContent = button.start;
      return;
    }
    button.start = button.textContent;
    button.textContent = button.dataset.stop;
    pane.hidden = false;
    button.stream = new EventSource(button.dataset.follow);
    const add = (event) => {
      const low = pane.scrollTop + pane.clientHeight > pane.scrollHeight - 20;
      pane.append(`${event.data}\n`);
      while (pane.childNodes.length > 500) pane.firstChild.remove();
      if (low) pane.scrollTop = pane.scrollHeight;
    };
    button.stream.onmessage = add;
    button.stream.addEventListener("refused", (event) => {
      add(event);
      button.click();
    });
  });

  // On a wall the views take turns.
  if (document.documentElement.classList.contains("wall")) {
    const turns = ["/", "/incidents", "/functions", "/regions"];
    const next = turns[(turns.indexOf(location.pathname) + 1) % turns.length];
    setTimeout(() => location.assign(`${next}?wall=1`), 30000);
  }
})();
