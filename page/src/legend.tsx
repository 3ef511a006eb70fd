// What the colours of the strip chart mean.

import { useEffect, useRef } from "preact/hooks";
import { palette, type Scale, STEPS, type Theme } from "./colour";
import { compact, percent } from "./format";
import { prepared } from "./paint";

export function Legend(props: { scale: Scale; kind?: string; theme: Theme; gutter: number; stat: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = prepared(canvas.current!, 240, 12);
    const colours = palette(props.theme, props.scale.diverging);
    for (let x = 0; x < 240; x++) {
      const at = Math.round((x / 239) * (STEPS - 1)) * 4;
      context.fillStyle = `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
      context.fillRect(x, 0, 1, 12);
    }
  }, [props.scale, props.theme]);
  const text = (value: number) => {
    if (props.scale.relative) {
      if (props.kind === "share") return `${value > 0 ? "+" : ""}${Math.round(value * 100)}`;
      return value === 0 ? "as at first" : value > 0 ? `${2 ** value}×` : `1/${2 ** -value}`;
    }
    return props.kind === "share" ? percent(value) : compact(value);
  };
  return (
    <div class="legend" style={{ marginLeft: `${props.gutter}px` }}>
      <div>
        <canvas ref={canvas} aria-hidden="true" />
        <div class="legend-ticks">
          {props.scale.ticks.map(({ at, value }, i) => (
            <span key={i} style={{ left: `${at * 240}px` }}>
              {text(value)}
            </span>
          ))}
        </div>
      </div>
      <div class="legend-words">
        {props.stat}
        {props.scale.relative && props.kind === "share" ? ", percentage points against the layer's own beginning" : ""}
        {props.scale.relative && props.kind !== "share" ? ", against the layer's own beginning" : ""}
        {(props.kind === "magnitude" || props.kind === "signed") && (
          <span>
            <i class="swatch alarm" /> nothing finite
          </span>
        )}
        <span>
          <i class="swatch none" /> not observed, or does not apply
        </span>
      </div>
    </div>
  );
}
