// Names and steps around the strip chart.

import type { Finding } from "./api";
import { whole } from "./format";
import { css, ticks } from "./paint";
import { SIGNS } from "./signs";
import type { StripProps } from "./strip_canvas";

const NAMED_ROW = 11; // pixels a row needs for its name

export function drawNames(
  context: CanvasRenderingContext2D,
  props: StripProps,
  rowHeight: number,
  worst: Map<string, Finding>,
  hovered: number | undefined,
) {
  const { order, sites, gutter } = props;
  const size = Math.min(13, Math.max(10, rowHeight - 3));
  context.textBaseline = "middle";
  context.textAlign = "right";
  const taken: [number, number][] = [];
  const put = (row: number, ink: string, bold: boolean) => {
    const site = sites[order[row]];
    if (!site) return;
    const y = Math.max(7, (row + 0.5) * rowHeight);
    if (taken.some(([low, high]) => y + 6 > low && y - 6 < high)) return;
    taken.push([y - 6, y + 6]);
    context.font = `${bold ? "600 " : ""}${size}px ${css("--font")}`;
    context.fillStyle = ink;
    const finding = worst.get(site.name);
    const sign = finding ? ` ${SIGNS[finding.severity]}` : "";
    context.fillText(fitted(context, site.name, gutter - 14 - (sign ? 12 : 0)) + sign, gutter - 6, y);
  };
  const flagged = order.flatMap((site, row) => (worst.has(sites[site]?.name) ? [row] : []));
  if (hovered !== undefined) put(hovered, css("--ink"), true);
  for (const row of flagged) put(row, css(`--${worst.get(sites[order[row]].name)!.severity}`), true);
  const every = rowHeight >= NAMED_ROW ? 1 : Math.ceil(14 / rowHeight);
  for (let row = 0; row < order.length; row += every) {
    put(row, sites[order[row]]?.name === props.chosen ? css("--ink") : css("--dim"), false);
  }
}

/** The end of a long path tells more than its beginning. */
function fitted(context: CanvasRenderingContext2D, text: string, room: number): string {
  if (context.measureText(text).width <= room) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (context.measureText(`…${text.slice(middle)}`).width <= room) high = middle;
    else low = middle + 1;
  }
  return `…${text.slice(low)}`;
}

export function drawAxis(
  context: CanvasRenderingContext2D,
  first: number,
  last: number,
  x: (step: number) => number,
  top: number,
  gutter: number,
  plot: number,
) {
  context.font = `11px ${css("--font")}`;
  context.fillStyle = css("--dim");
  context.strokeStyle = css("--line");
  context.lineWidth = 1;
  context.textBaseline = "top";
  context.textAlign = "center";
  for (const step of ticks(first, last, plot / 90)) {
    const at = x(step + 0.5);
    context.beginPath();
    context.moveTo(at, top);
    context.lineTo(at, top + 5);
    context.stroke();
    context.fillText(whole(step), Math.min(at, gutter + plot - 12), top + 8);
  }
  context.textAlign = "right";
  context.fillText("step", gutter - 6, top + 8);
}
