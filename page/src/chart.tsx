// Lines over steps, drawn by uPlot in the page's colours.

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import type { Theme } from "./colour";
import { compact, percent, whole } from "./format";
import { css, onResize } from "./paint";

export interface Curve {
  label: string;
  step: number[];
  value: (number | null)[];
  low?: (number | null)[];
  high?: (number | null)[];
  dashed?: boolean;
}

interface Props {
  curves: Curve[];
  window: [number, number];
  height: number;
  theme: Theme;
  log?: boolean;
  share?: boolean;
  left?: number;
  label: string;
  /** Whether another chart below has the steps. */
  bare?: boolean;
  marks?: { step: number; colour: string }[];
  onWindow?: (window: [number, number] | null) => void;
}

const COLOURS = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6"];

export function Chart(props: Props) {
  const place = useRef<HTMLDivElement>(null);
  const latest = useRef(props);
  latest.current = props;
  const plot = useRef<uPlot>(undefined);
  const shape = [
    props.theme,
    props.log,
    props.share,
    props.left,
    props.height,
    ...props.curves.map((curve) => `${curve.label}${curve.low ? "~" : ""}${curve.dashed ? "-" : ""}`),
  ].join("|");

  useEffect(() => {
    const element = place.current!;
    const made = new uPlot(options(latest, element.clientWidth), tableOf(props.curves, props.log), element);
    plot.current = made;
    const stop = onResize(element, () => made.setSize({ width: element.clientWidth, height: props.height }));
    return () => {
      stop();
      made.destroy();
    };
  }, [shape]);

  useEffect(() => {
    plot.current?.setData(tableOf(props.curves, props.log), true);
  }, [props.curves, props.window[0], props.window[1], props.marks]);

  const ends = props.curves.map((curve) => {
    const known = curve.value.filter((value) => value !== null && !Number.isNaN(value));
    const last = known[known.length - 1];
    return `${curve.label} ${props.share ? percent(last) : compact(last)}`;
  });
  return (
    <figure class="chart" aria-label={`${props.label}: ${ends.join(", ")}`} role="img">
      <div ref={place} />
    </figure>
  );
}

function options(latest: { current: Props }, width: number): uPlot.Options {
  const { curves, height, log, share, left, bare } = latest.current;
  const ink = css("--dim");
  const font = `11px ${css("--font")}`;
  const grid = { stroke: css("--line"), width: 1 };
  const write = (value: number | null) => (share ? percent(value) : compact(value));
  const series: uPlot.Series[] = [{ label: "step", value: (_, v) => (v === null ? "–" : whole(Math.round(v))) }];
  const bands: uPlot.Band[] = [];
  curves.forEach((curve, i) => {
    const stroke = css(COLOURS[i % COLOURS.length]);
    const points = { show: (u: uPlot) => u.data[0].length < 60, size: 4 };
    const dash = curve.dashed ? [5, 4] : undefined;
    const line = { label: curve.label, stroke, width: 1.6, dash, points, spanGaps: true };
    series.push({ ...line, value: (_, v) => write(v) });
    if (curve.low) {
      const edge = { stroke: "transparent", points: { show: false }, spanGaps: true };
      series.push({ ...edge, label: `${curve.label} high`, class: "edge" });
      series.push({ ...edge, label: `${curve.label} low`, class: "edge" });
      bands.push({ series: [series.length - 2, series.length - 1], fill: `${stroke}33` });
    }
  });
  const range = (_: uPlot, low: number | null, high: number | null): [number | null, number | null] => {
    if (share) return [0, 1.02];
    if (low === null || high === null) return [0, 1];
    if (low === high) return log ? [low / 2, high * 2] : [low - Math.abs(low || 1) / 10, high + Math.abs(high || 1) / 10];
    const room = (high - low) * 0.06;
    return log ? [low / 1.2, high * 1.2] : [low - room, high + room];
  };
  return {
    width,
    height,
    series,
    bands,
    padding: [8, 12, 0, 0],
    legend: { live: true },
    cursor: { drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
    scales: {
      x: {
        time: false,
        range: () => [latest.current.window[0] - 0.5, latest.current.window[1] + 0.5],
      },
      y: { distr: log ? 3 : 1, range: range as uPlot.Scale.Range },
    },
    axes: [
      { stroke: ink, font, grid, ticks: grid, size: bare ? 6 : 28, values: (_, at) => at.map((v) => (!bare && Number.isInteger(v) ? whole(v) : "")) },
      {
        stroke: ink,
        font,
        grid,
        ticks: grid,
        size: left ?? 62,
        ...(log ? { splits: (_: uPlot, __: number, low: number, high: number) => decades(low, high) } : {}),
        values: (_, at) => at.map((v) => (v === null ? "" : write(v))),
      },
    ],
    hooks: {
      setSelect: [
        (u) => {
          if (u.select.width < 4) return;
          const low = Math.round(u.posToVal(u.select.left, "x"));
          const high = Math.round(u.posToVal(u.select.left + u.select.width, "x"));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          latest.current.onWindow?.([low, Math.max(low + 3, high)]);
        },
      ],
      draw: [
        (u) => {
          for (const mark of latest.current.marks ?? []) {
            const at = u.valToPos(mark.step, "x", true);
            if (at < u.bbox.left || at > u.bbox.left + u.bbox.width) continue;
            u.ctx.save();
            u.ctx.strokeStyle = mark.colour;
            u.ctx.lineWidth = 2 * devicePixelRatio;
            u.ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
            u.ctx.beginPath();
            u.ctx.moveTo(at, u.bbox.top);
            u.ctx.lineTo(at, u.bbox.top + u.bbox.height);
            u.ctx.stroke();
            u.ctx.restore();
          }
        },
      ],
      ready: [(u) => u.over.addEventListener("dblclick", () => latest.current.onWindow?.(null))],
    },
  };
}

/** Powers of ten for a logarithmic axis, or more steps where there are few. */
function decades(low: number, high: number): number[] {
  const [from, to] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const every = Math.max(1, Math.ceil((to - from + 1) / 6));
  const found: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= to; power++) {
    const steps = to - from < 2 ? [1, 2, 5] : [1];
    if ((power - from) % every === 0) found.push(...steps.map((step) => step * 10 ** power).filter((v) => v >= low && v <= high));
  }
  return found;
}

/** Curves with steps of their own in one table: a step without a value of a curve is null. */
function tableOf(curves: Curve[], log?: boolean): uPlot.AlignedData {
  const steps = [...new Set(curves.flatMap((curve) => curve.step))].sort((a, b) => a - b);
  const place = new Map(steps.map((step, i) => [step, i]));
  const columns: (number | null)[][] = [];
  const spread = (curve: Curve, values: (number | null)[]) => {
    const column: (number | null)[] = new Array(steps.length).fill(null);
    curve.step.forEach((step, i) => {
      const value = values[i];
      const drawn = typeof value === "number" && Number.isFinite(value) && (!log || value > 0);
      column[place.get(step)!] = drawn ? value : null;
    });
    columns.push(column);
  };
  for (const curve of curves) {
    spread(curve, curve.value);
    if (curve.low && curve.high) {
      spread(curve, curve.high);
      spread(curve, curve.low);
    }
  }
  return [steps, ...columns] as uPlot.AlignedData;
}
