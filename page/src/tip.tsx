// The exact values under the pointer, or under the cursor of the keyboard.

import { useEffect, useState } from "preact/hooks";
import { type Cell, type Finding, getJson } from "./api";
import { exact, percent, shown, whole } from "./format";
import { SIGNS } from "./signs";
import type { StripProps } from "./strip_canvas";

export interface Hover {
  row: number;
  step: number;
  x: number;
  y: number;
}

export function Tip(
  props: StripProps & { hover: Hover; width: number; top: number; worst: Map<string, Finding> },
) {
  const { hover, picture, values } = props;
  const index = props.order[hover.row];
  const site = props.sites[index];
  const [cell, setCell] = useState<Cell | null>(null);
  let range: [number, number] = [hover.step, hover.step];
  let value = NaN;
  if (picture && hover.step >= picture.first && hover.step <= picture.last) {
    const size = (picture.last - picture.first + 1) / picture.columns;
    const column = Math.floor((hover.step - picture.first) / size);
    range = [
      Math.ceil(picture.first + column * size),
      Math.ceil(picture.first + (column + 1) * size) - 1,
    ];
    const row = picture.sites.indexOf(index);
    if (row >= 0) value = picture.values[row * picture.columns + column];
  }
  const [first, last] = range;
  useEffect(() => {
    setCell(null);
    if (!picture) return;
    const ending = new AbortController();
    const timer = setTimeout(() => {
      const asked = { run: props.run, phase: props.phase, site: site.name, statistic: picture.statistic };
      getJson<Cell>("cell", { ...asked, first, last }, ending.signal).then(setCell, () => undefined);
    }, 90);
    return () => {
      clearTimeout(timer);
      ending.abort();
    };
  }, [site.name, first, last, picture?.statistic, props.run, props.phase]);
  const finding = props.worst.get(site.name);
  const kind = picture?.kind ?? "signed";
  const text = kind === "share" ? percent : exact;
  const left = hover.x > props.width * 0.55;
  const position = {
    top: `${props.top + 6}px`,
    ...(left ? { right: `${props.width - hover.x + 10}px` } : { left: `${hover.x + 10}px` }),
  };
  return (
    <div class="tip" role="status" style={position}>
      <strong>{site.name}</strong> <span class="dim">{site.class}</span>
      <div>
        step {whole(first)}
        {last > first ? ` to ${whole(last)}` : ""}
      </div>
      {cell ? (
        cell.observed === 0 ? (
          <div>not observed here</div>
        ) : (cell.last ?? 0) < first ? (
          <div>
            {picture?.statistic} <strong>{text(cell.mean)}</strong>
            <div class="dim">as observed last, at step {whole(cell.last!)}</div>
          </div>
        ) : cell.observed === 1 || cell.low === cell.high ? (
          <div>
            {picture?.statistic} <strong>{text(cell.mean)}</strong>
            {kind === "share" && cell.mean !== null && cell.mean !== undefined && (
              <span class="dim"> {exact(cell.mean)}</span>
            )}
          </div>
        ) : (
          <div>
            {picture?.statistic} <strong>{text(cell.mean)}</strong>
            <div class="dim">
              {text(cell.low)} to {text(cell.high)} in {whole(cell.observed)} observed steps
            </div>
          </div>
        )
      ) : (
        <div>
          {picture?.statistic} {shown(value, kind)}
        </div>
      )}
      {props.scale.relative && values && picture && <div class="dim">colour: against its own beginning</div>}
      {finding && (
        <div class={`why ${finding.severity}`}>
          {SIGNS[finding.severity]} {finding.message}
        </div>
      )}
    </div>
  );
}
