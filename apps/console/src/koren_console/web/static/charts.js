// SPDX-License-Identifier: Apache-2.0
// Figures over time: at most three lines, the objective as a line of its own, gaps as gaps.
"use strict";
(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const resolved = (name) => {
    const probe = document.createElement("i");
    probe.className = `probe-${name}`;
    document.body.append(probe);
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  };
  async function draw(figure) {
    const place = figure.querySelector("div");
    const answer = await fetch(figure.dataset.chart).catch(() => null);
    const found = answer && (await answer.json().catch(() => null));
    if (!Array.isArray(found) || !found.length || !found.some((one) => one.values.some((value) => value !== null))) {
      place.textContent = (found && found.refusal) || figure.dataset.gap;
      return;
    }
    const colours = ["accent", "ok", "watch"].map(resolved);
    const line = resolved("line");
    const muted = resolved("muted");
    const data = [found[0].times, ...found.map((one) => one.values)];
    const series = [{}, ...found.map((one, index) => ({ label: one.name, stroke: colours[index], width: 1.5, spanGaps: false, points: { show: false } }))];
    const objective = found[0].objective;
    if (objective !== null) {
      data.push(found[0].times.map(() => objective));
      series.push({ label: figure.dataset.objective, stroke: resolved("act"), width: 1, dash: [4, 4], points: { show: false } });
    }
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: `12px ${style("--font")}` };
    const size = () => ({ width: Math.max(240, figure.clientWidth - 8), height: 160 });
    const top = Math.max(1, objective || 0, ...found.flatMap((one) => one.values.map((value) => value || 0)));
    place.textContent = "";
    const chart = new uPlot(
      {
        ...size(),
        series,
        cursor: { drag: { x: false, y: false } },
        legend: { show: found.length > 1 },
        scales: { y: { range: [0, top * 1.1] } },
        axes: [
          { ...axis, values: [[86400, "{MM}-{DD}"], [3600, "{HH}:{mm}"], [60, "{HH}:{mm}"], [1, "{HH}:{mm}:{ss}"]].map(([seconds, format]) => [seconds, format, null, null, null, null, null, null, 1]) },
          { ...axis, size: 44 },
        ],
      },
      data,
      place,
    );
    new ResizeObserver(() => chart.setSize(size())).observe(figure);
  }
  document.querySelectorAll("[data-chart]").forEach(draw);
})();
