// One recorded tensor as pictures: maps as a grid, sequences as a heat map, vectors as bars.

import { useEffect, useMemo, useRef } from "preact/hooks";
import type { Tensor } from "./api";
import { domainOf, palette, STEPS, type Theme } from "./colour";
import { compact } from "./format";
import { css, prepared } from "./paint";

interface Props {
  tensor: Tensor;
  sample: number;
  theme: Theme;
  label: string;
}

/** A map: height, width, and where its numbers are. */
export interface Plane {
  height: number;
  width: number;
  at: (y: number, x: number) => number;
  title: string;
}

const MOST_PLANES = 256;

export function planesOf(tensor: Tensor, sample: number): Plane[] {
  const { shape, values } = tensor;
  const tail = tensor.has_rows ? shape.slice(1) : shape;
  const size = tail.reduce((a, b) => a * b, 1);
  const start = tensor.has_rows ? sample * size : 0;
  if (tail.length === 3) {
    const [a, b, c] = tail;
    // Attention scores are heads x queries x keys; images are height x width x channels.
    const heads = b === c && a !== b;
    const count = Math.min(heads ? a : c, MOST_PLANES);
    return Array.from({ length: count }, (_, i) => ({
      height: heads ? b : a,
      width: heads ? c : b,
      at: heads ? (y, x) => values[start + (i * b + y) * c + x] : (y, x) => values[start + (y * b + x) * c + i],
      title: heads ? `head ${i}` : `channel ${i}`,
    }));
  }
  if (tail.length === 2) {
    const [height, width] = tail;
    return [{ height, width, at: (y, x) => values[start + y * width + x], title: `${height} × ${width}` }];
  }
  return [];
}

export function vectorOf(tensor: Tensor, sample: number): Float32Array | undefined {
  const tail = tensor.has_rows ? tensor.shape.slice(1) : tensor.shape;
  if (tail.length === 1) return tensor.values.subarray(tensor.has_rows ? sample * tail[0] : 0).subarray(0, tail[0]);
  return tail.length === 0 ? tensor.values : undefined;
}

export function TensorPicture(props: Props) {
  const { tensor, sample, theme, label } = props;
  const planes = useMemo(() => planesOf(tensor, sample), [tensor, sample]);
  const vector = useMemo(() => vectorOf(tensor, sample), [tensor, sample]);
  const domain = useMemo(() => domainOf(tensor.values), [tensor]);
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    if (!canvas.current) return;
    const width = canvas.current.parentElement!.clientWidth;
    if (planes.length) drawPlanes(canvas.current, planes, domain, theme, width);
    else if (vector) drawBars(canvas.current, vector, width);
  }, [planes, vector, theme, domain]);
  if (!planes.length && !vector) {
    return <p class="empty">A tensor of shape {tensor.shape.join(" × ")} is not drawn; Python gives it: run.values(…).</p>;
  }
  return (
    <>
      <div class="fan">
        <canvas ref={canvas} role="img" aria-label={label} />
      </div>
      <p class="dim">
        {planes.length ? `${planes.length} ${planes.length === 1 ? "map" : "maps"}, ` : ""}
        from {compact(domain.low)} to {compact(domain.high)} in the recorded rows
        {domain.low < 0 ? "; blue is negative, orange positive." : "."}
      </p>
    </>
  );
}

function drawPlanes(
  canvas: HTMLCanvasElement,
  planes: Plane[],
  domain: { low: number; high: number },
  theme: Theme,
  width: number,
) {
  const [{ height: h, width: w }] = planes;
  const most = planes.length === 1 ? Math.min(width, 900) : Math.min(width, 150);
  const scale = Math.max(1, Math.floor(Math.min(most / w, 420 / h, planes.length === 1 ? 24 : 12)));
  const gap = planes.length === 1 ? 0 : 6;
  const across = Math.max(1, Math.floor((width + gap) / (w * scale + gap)));
  const down = Math.ceil(planes.length / across);
  const context = prepared(canvas, width, down * (h * scale + gap));
  context.imageSmoothingEnabled = false;
  const signed = domain.low < 0;
  const end = Math.max(Math.abs(domain.low), Math.abs(domain.high)) || 1;
  const colours = palette(theme, signed);
  planes.forEach((plane, i) => {
    const image = new ImageData(w, h);
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        const value = plane.at(y, x);
        const place = signed ? (value / end + 1) / 2 : value / end;
        const colour = Math.max(0, Math.min(STEPS - 1, Math.round(place * (STEPS - 1)))) * 4;
        const at = (y * w + x) * 4;
        if (!Number.isFinite(value)) continue;
        image.data.set(colours.subarray(colour, colour + 4), at);
      }
    }
    const surface = new OffscreenCanvas(w, h);
    surface.getContext("2d")!.putImageData(image, 0, 0);
    const left = (i % across) * (w * scale + gap);
    const top = Math.floor(i / across) * (h * scale + gap);
    context.fillStyle = css("--alarm"); // what is not finite shows through
    context.fillRect(left, top, w * scale, h * scale);
    context.drawImage(surface, left, top, w * scale, h * scale);
  });
}

function drawBars(canvas: HTMLCanvasElement, vector: Float32Array, width: number) {
  const height = 200;
  const context = prepared(canvas, width, height);
  const known = [...vector].filter(Number.isFinite);
  const high = Math.max(0, ...known);
  const low = Math.min(0, ...known);
  const span = high - low || 1;
  const y = (value: number) => 8 + ((high - value) / span) * (height - 16);
  const bar = Math.min(48, width / vector.length);
  for (let i = 0; i < vector.length; i++) {
    const value = vector[i];
    const finite = Number.isFinite(value);
    context.fillStyle = css(finite ? (value < 0 ? "--c1" : "--c2") : "--alarm");
    const [top, bottom] = finite ? [y(Math.max(value, 0)), y(Math.min(value, 0))] : [8, height - 8];
    context.fillRect(i * bar, top, Math.max(bar - (bar > 4 ? 1 : 0), 0.6), Math.max(bottom - top, 1));
  }
  context.fillStyle = css("--dim");
  context.fillRect(0, y(0), Math.min(width, bar * vector.length), 1);
}
