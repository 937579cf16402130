// Charts of finished jobs: when they finished, how long they ran, how many cycles. Live jobs are not charted.

import { html, useEffect, useRef, useState } from "./lib.js";
import { clock, count, runtime, si } from "./format.js";

const HEIGHT = 140;
const RESULTS = ["pass", "fail", "skip"]; // from the bottom of a stack to its top
const isDark = matchMedia("(prefers-color-scheme: dark)");

/** `entry`: what `useWatch` has of /charts. */
export function Charts({ entry }) {
  const uPlot = useLibrary();
  if (!entry || entry.status !== 200 || !uPlot) return null;
  const { finishes, runtime: runtimes, cycles } = entry.body;
  if (!finishes.start) return null;
  const begin = Date.parse(finishes.start);
  const times = finishes.pass.map((_, step) => begin + step * finishes.step_ms);
  return html`<section class="charts" aria-label="Charts of finished jobs">
    <${Chart} uPlot=${uPlot} title="Finishes over time" data=${finishes} labels=${times.map((time) => clock(time))} />
    <${Chart} uPlot=${uPlot} title="Runtime by result" data=${runtimes} labels=${runtimes.edges_ms.map(runtime)} />
    <${Chart} uPlot=${uPlot} title="Cycles by result" data=${cycles} labels=${cycles.edges.map(si)} />
  </section>`;
}

/** uPlot is loaded when the first chart is, and not with the page. */
function useLibrary() {
  const [library, setLibrary] = useState(null);
  useEffect(() => {
    import("./vendor/uPlot.js").then((module) => setLibrary(() => module.default), () => {});
  }, []);
  return library;
}

/** Stacked bars; `labels[i]` names the left edge of bar i. */
function Chart({ uPlot, title, data, labels }) {
  const place = useRef(null);
  const plot = useRef(null);
  const latest = useRef(null);
  latest.current = { data, labels };
  useEffect(() => {
    const element = place.current;
    const draw = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(uPlot, element, latest), stacked(latest.current.data), element);
    };
    draw();
    isDark.addEventListener("change", draw);
    const sizes = new ResizeObserver(() => plot.current.setSize({ width: element.clientWidth, height: HEIGHT }));
    sizes.observe(element);
    return () => {
      isDark.removeEventListener("change", draw);
      sizes.disconnect();
      plot.current.destroy();
    };
  }, []);
  useEffect(() => plot.current.setData(stacked(data)), [data]);
  return html`<figure class="chart">
    <figcaption>${title}</figcaption>
    <div ref=${place} role="img" aria-label="${title}: ${inWords(data, labels)}"></div>
  </figure>`;
}

function sum(numbers) {
  return numbers.reduce((total, n) => total + n, 0);
}

function inWords(data, labels) {
  const totals = RESULTS.map((name) => `${count(sum(data[name]))} ${name}`).join(", ");
  return labels.length ? `${totals}; from ${labels[0]} to ${labels.at(-1)}` : "nothing yet";
}

/** What uPlot draws, the highest first: each series is the sum of those from the bottom up to its own. */
function stacked(data) {
  const steps = data.pass.map((_, step) => step);
  const upTo = (last) => steps.map((step) => sum(RESULTS.slice(0, last + 1).map((name) => data[name][step])));
  return [steps, upTo(2), upTo(1), upTo(0)];
}

function options(uPlot, element, latest) {
  const bars = uPlot.paths.bars({ size: [0.86, 40] });
  const style = getComputedStyle(element); // live: it follows what is set
  const color = (name) => {
    element.style.color = `var(--${name})`;
    return style.color;
  };
  const line = { stroke: color("chart-text"), grid: { stroke: color("chart-grid"), width: 1 }, ticks: { show: false }, font: `11px ${style.fontFamily}` };
  const label = (step) => latest.current.labels[step] ?? "";
  return {
    width: element.clientWidth,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    legend: { markers: { width: 0, fill: (plot, at) => color(`chart-${RESULTS[3 - at]}`) } },
    scales: { x: { time: false, range: (plot, low, high) => [low - 0.5, high + 0.5] }, y: { range: (plot, low, high) => [0, Math.max(high, 1)] } },
    axes: [
      { ...line, grid: { show: false }, space: 72, size: 24, values: (plot, steps) => steps.map((step) => (step % 1 ? "" : label(step))) },
      { ...line, size: 44, space: 28, values: (plot, counts) => counts.map((n) => (n % 1 ? "" : si(n))) },
    ],
    series: [
      { label: "from", value: (plot, step) => (step == null ? "–" : label(step)) },
      ...[2, 1, 0].map((at) => ({
        label: RESULTS[at],
        fill: RESULTS[at] === "fail" ? hatched(color("chart-fail"), color("chart-fail-line")) : color(`chart-${RESULTS[at]}`),
        stroke: color(`chart-${RESULTS[at]}`),
        width: 0,
        points: { show: false },
        paths: bars,
        value: (plot, total, series, step) => (step == null ? "–" : count(latest.current.data[RESULTS[at]][step])),
      })),
    ],
  };
}

/** A fill with stripes, so that fails differ by more than their color. */
function hatched(ground, line) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d");
  pen.fillStyle = ground;
  pen.fillRect(0, 0, 6, 6);
  pen.strokeStyle = line;
  pen.lineWidth = 1.5;
  for (const shift of [-6, 0, 6]) {
    pen.moveTo(shift - 1, 7);
    pen.lineTo(shift + 7, -1);
  }
  pen.stroke();
  return () => pen.createPattern(tile, "repeat");
}
