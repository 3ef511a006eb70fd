// The strip chart: one row a site, one column a stretch of steps, findings as marks.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Finding, Picture, Site } from "./api";
import type { Scale, Theme } from "./colour";
import { css, onResize, paint, prepared } from "./paint";
import { drawAxis, drawNames } from "./strip_labels";
import { type Hover, Tip } from "./tip";

export const AXIS = 26;
const RIGHT = 12;
export interface StripProps {
  run: string;
  phase: string;
  sites: Site[];
  order: number[];
  picture?: Picture;
  values?: Float32Array;
  scale: Scale;
  theme: Theme;
  findings: Finding[];
  window: [number, number];
  whole: [number, number];
  gutter: number;
  chosen?: string;
  onWindow: (window: [number, number] | null) => void;
  onSite: (name: string) => void;
  label: string;
}

export function StripCanvas(props: StripProps) {
  const { order, sites, picture, values, window: range, gutter } = props;
  const holder = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [hover, setHover] = useState<Hover | null>(null);
  const drag = useRef<{ x: number; window: [number, number]; moved: boolean } | null>(null);
  const rowHeight = heightOfRow(order.length);
  const height = Math.max(1, order.length) * rowHeight + AXIS;
  const plot = Math.max(1, width - gutter - RIGHT);
  const [first, last] = range;
  const span = last - first + 1;

  useEffect(() => {
    const element = holder.current!;
    const measure = () => setWidth(element.clientWidth);
    measure();
    return onResize(element, measure);
  }, []);

  const image = useMemo(() => {
    if (!picture || !values || !order.length) return undefined;
    const place = new Map(picture.sites.map((site, row) => [site, row]));
    const rows = order.map((site) => place.get(site));
    const data = paint(values, picture.columns, rows, picture.kind, props.scale, props.theme);
    const surface = new OffscreenCanvas(data.width, data.height);
    surface.getContext("2d")!.putImageData(data, 0, 0);
    return surface;
  }, [picture, values, props.scale, props.theme, order]);

  const worst = useMemo(() => {
    const found = new Map<string, Finding>();
    for (const finding of props.findings) {
      if (!found.has(finding.site)) found.set(finding.site, finding);
    }
    return found;
  }, [props.findings]);

  useEffect(() => {
    if (!width || !canvas.current) return;
    const context = prepared(canvas.current, width, height);
    const x = (step: number) => gutter + ((step - first) / span) * plot;
    context.save();
    context.beginPath();
    context.rect(gutter, 0, plot, height - AXIS);
    context.clip();
    context.fillStyle = css("--empty");
    context.fillRect(gutter, 0, plot, height - AXIS);
    if (image && picture) {
      context.imageSmoothingEnabled = false;
      const left = x(picture.first);
      context.drawImage(image, left, 0, x(picture.last + 1) - left, height - AXIS);
    }
    if (rowHeight >= 8) {
      context.fillStyle = css("--page");
      for (let row = 1; row < order.length; row++) context.fillRect(gutter, row * rowHeight, plot, 1);
    }
    const rowOf = new Map(order.map((site, row) => [sites[site]?.name, row]));
    for (const finding of [...props.findings].reverse()) {
      const row = rowOf.get(finding.site);
      if (row === undefined) continue;
      const left = Math.max(x(finding.first_step), gutter);
      const right = Math.min(x(finding.last_step + 1), gutter + plot);
      if (right < gutter || left > gutter + plot) continue;
      const top = row * rowHeight;
      context.strokeStyle = css(`--${finding.severity}`);
      context.lineWidth = 2;
      const tall = Math.max(rowHeight, 4);
      context.strokeRect(left + 1, top + 1, Math.max(right - left - 2, 2), tall - 2);
      if (finding.first_step >= first) {
        context.fillStyle = css(`--${finding.severity}`);
        context.fillRect(left, top, 4, tall);
      }
    }
    context.restore();
    // Of which steps the colours are: while a zoom waits for its answer, those of before.
    if (picture) canvas.current.dataset.drawn = `${picture.first}-${picture.last}`;
    drawNames(context, props, rowHeight, worst, hover?.row);
    drawAxis(context, first, last, x, height - AXIS, gutter, plot);
    if (hover) {
      context.strokeStyle = css("--ink");
      context.globalAlpha = 0.7;
      context.lineWidth = 1;
      const at = x(hover.step + 0.5);
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at, height - AXIS);
      context.stroke();
      context.strokeRect(gutter + 0.5, hover.row * rowHeight + 0.5, plot - 1, Math.max(rowHeight - 1, 2));
      context.globalAlpha = 1;
    }
  }, [image, width, height, range, hover, props.findings, props.theme, gutter, order, props.chosen]);

  const locate = (event: MouseEvent): Hover | null => {
    const box = canvas.current!.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    const row = Math.floor(y / rowHeight);
    if (row < 0 || row >= order.length || y >= height - AXIS) return null;
    const step = Math.floor(first + ((x - gutter) / plot) * span);
    return { row, step: Math.max(first, Math.min(last, step)), x, y };
  };

  const zoom = (factor: number, at: number) => {
    const [low, high] = props.whole;
    const size = Math.max(4, Math.min(high - low + 1, Math.round(span * factor)));
    if (size >= high - low + 1) return props.onWindow(null);
    const share = (at - first) / span;
    const begin = Math.max(low, Math.min(high - size + 1, Math.round(at - share * size)));
    props.onWindow([begin, begin + size - 1]);
  };

  const pan = (steps: number, from: [number, number] = range) => {
    const [low, high] = props.whole;
    const size = from[1] - from[0];
    const begin = Math.max(low, Math.min(high - size, Math.round(from[0] + steps)));
    if (begin !== first || begin + size !== last) props.onWindow([begin, begin + size]);
  };

  useEffect(() => {
    const element = canvas.current!;
    const wheel = (event: WheelEvent) => {
      // The page scrolls as ever over the names, and with Shift.
      const box = element.getBoundingClientRect();
      if (event.shiftKey || event.clientX - box.left < gutter) return;
      const tall = box.height > innerHeight * 0.9;
      if (tall && !event.ctrlKey && !event.altKey) return;
      event.preventDefault();
      const at = locate(event);
      if (at) zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300))), at.step);
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  });

  const keys = (event: KeyboardEvent) => {
    const now = hover ?? { row: 0, step: first, x: gutter, y: 0 };
    const one = Math.max(1, Math.round(span / (picture?.columns ?? 100)));
    const move = (rows: number, steps: number) => {
      const row = Math.max(0, Math.min(order.length - 1, now.row + rows));
      const step = Math.max(first, Math.min(last, now.step + steps));
      const x = gutter + ((step - first + 0.5) / span) * plot;
      setHover({ row, step, x, y: (row + 0.5) * rowHeight });
    };
    const many = event.shiftKey ? 10 : 1;
    const action: Record<string, () => void> = {
      ArrowUp: () => move(-many, 0),
      ArrowDown: () => move(many, 0),
      ArrowLeft: () => move(0, -one * many),
      ArrowRight: () => move(0, one * many),
      "+": () => zoom(0.6, now.step),
      "=": () => zoom(0.6, now.step),
      "-": () => zoom(1 / 0.6, now.step),
      "0": () => props.onWindow(null),
      PageUp: () => pan(-span / 2),
      PageDown: () => pan(span / 2),
      Enter: () => sites[order[now.row]] && props.onSite(sites[order[now.row]].name),
      Escape: () => setHover(null),
    };
    if (action[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      action[event.key]();
    }
  };

  return (
    <div class="strip" ref={holder}>
      <canvas
        ref={canvas}
        tabIndex={0}
        role="application"
        aria-label={`${props.label}. Arrow keys move, plus and minus zoom, 0 shows all, Enter opens the layer.`}
        onKeyDown={keys}
        onPointerDown={(event) => {
          canvas.current!.setPointerCapture(event.pointerId);
          drag.current = { x: event.clientX, window: range, moved: false };
        }}
        onPointerMove={(event) => {
          const started = drag.current;
          if (started && Math.abs(event.clientX - started.x) > 3) started.moved = true;
          if (started?.moved) {
            pan(((started.x - event.clientX) / plot) * span, started.window);
            setHover(null);
          } else setHover(locate(event));
        }}
        onPointerUp={(event) => {
          const clicked = drag.current && !drag.current.moved;
          drag.current = null;
          const at = locate(event);
          if (clicked && at && sites[order[at.row]]) props.onSite(sites[order[at.row]].name);
        }}
        onPointerLeave={() => {
          if (!drag.current) setHover(null);
        }}
        onDblClick={() => props.onWindow(null)}
      />
      {hover && sites[order[hover.row]] && (
        <Tip {...props} hover={hover} width={width} top={(hover.row + 1) * rowHeight} worst={worst} />
      )}
    </div>
  );
}

export function heightOfRow(rows: number): number {
  const room = Math.max(220, innerHeight - 400);
  // A thousand layers are a thousand lines of the screen: the whole model is seen at once.
  return Math.max(1, Math.min(36, Math.floor(room / Math.max(1, rows))));
}
