// Small pictures for the rows of a table, and one point a sample for predicted numbers.

import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Tensor } from "./api";
import { domainOf, type Theme } from "./colour";
import { compact } from "./format";
import { css, prepared } from "./paint";
import { colourImage, mapOf, put } from "./pixels";
import { isColourImage, pictureOf, tailOf } from "./planes";

const SIDE = 56;

export function MiniMap(props: { tensor: Tensor; row: number; theme: Theme; label: string }) {
  const { tensor, row, theme } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const domain = useMemo(() => domainOf(tensor.values), [tensor]);
  useEffect(() => {
    const picture = row >= 0 ? pictureOf(tensor, row, "last") : undefined;
    if (!canvas.current || !picture) return;
    const { height, width } = picture.planes[0];
    const scale = SIDE / Math.max(height, width);
    const context = prepared(canvas.current, width * scale, height * scale);
    const coloured = isColourImage("@batch/", tensor);
    put(context, coloured ? colourImage(picture.planes, domain) : mapOf(picture.planes[0], domain, theme), 0, 0, width * scale, height * scale);
  }, [tensor, row, theme, domain]);
  if (row < 0) return <>–</>;
  return <canvas ref={canvas} role="img" aria-label={props.label} />;
}

/** The values of one row as bars; the marked one is what it should be. */
export function MiniBars(props: { tensor: Tensor; values: Float32Array; marked?: number; theme: Theme; label: string }) {
  const { tensor, values, marked, theme } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const domain = useMemo(() => domainOf(tensor.values), [tensor]);
  const count = Math.min(values.length, 128);
  const bar = Math.max(2, Math.min(9, Math.floor(120 / count)));
  useEffect(() => {
    const high = Math.max(domain.high, 0);
    const low = Math.min(domain.low, 0);
    const context = prepared(canvas.current!, bar * count + 2, 30);
    const y = (value: number) => 1 + ((high - value) / (high - low || 1)) * 26;
    for (let i = 0; i < count; i++) {
      const value = Number.isFinite(values[i]) ? values[i] : 0;
      const [top, bottom] = [y(Math.max(value, 0)), y(Math.min(value, 0))];
      context.fillStyle = css(!Number.isFinite(values[i]) ? "--alarm" : i === marked ? "--c2" : "--c1");
      context.fillRect(i * bar, top, bar - (bar > 3 ? 1 : 0), Math.max(bottom - top, 1));
      // Under what it should be, also where nothing of it was predicted.
      if (i === marked) context.fillRect(i * bar, 28, Math.max(bar - 1, 2), 2);
    }
  }, [values, marked, theme, domain, bar, count]);
  const words = marked === undefined ? "" : `; ${compact(values[marked])} for what it is, ${marked}`;
  return <canvas ref={canvas} role="img" aria-label={`${props.label}: ${tailOf(tensor)[0]} values${words}`} />;
}

/** One point a sample: what was so to the right, what was predicted upwards; on the line both are alike. */
export function Scatter(props: { y: number[]; predicted: number[]; theme: Theme }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const pairs = props.y.map((y, i) => [y, props.predicted[i]]).filter((pair) => pair.every(Number.isFinite));
    const [width, height, left, below] = [300, 240, 56, 30];
    const context = prepared(canvas.current!, width, height);
    if (!pairs.length) return;
    let low = Math.min(...pairs.flat());
    let high = Math.max(...pairs.flat());
    if (low === high) [low, high] = [low - 1, high + 1];
    const room = (high - low) * 0.05;
    const x = (v: number) => left + ((v - low + room) / (high - low + 2 * room)) * (width - left - 8);
    const y = (v: number) => height - below - ((v - low + room) / (high - low + 2 * room)) * (height - below - 8);
    context.strokeStyle = css("--line");
    context.strokeRect(left, 8, width - left - 8, height - below - 8);
    context.beginPath();
    context.moveTo(x(low), y(low));
    context.lineTo(x(high), y(high));
    context.stroke();
    context.fillStyle = css("--c1");
    for (const [so, predicted] of pairs) {
      context.beginPath();
      context.arc(x(so), y(predicted), 3, 0, 7);
      context.fill();
    }
    context.fillStyle = css("--dim");
    context.font = `11px ${css("--font")}`;
    context.textAlign = "right";
    for (const value of [low, high]) context.fillText(compact(value), left - 5, y(value) + 4);
    context.fillText("y_pred", left - 5, y((low + high) / 2) + 4);
    context.textAlign = "center";
    for (const value of [low, high]) context.fillText(compact(value), x(value), height - 12);
    context.fillText("y", x((low + high) / 2), height - 12);
  }, [props.y, props.predicted, props.theme]);
  return <canvas ref={canvas} role="img" aria-label="Predicted values against what was so, one point a sample" />;
}
