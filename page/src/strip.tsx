// The first view: what is unwell and since when, loss, and every layer over all steps.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Findings, getJson, getPicture, type Metrics, type Picture, type RunDetail } from "./api";
import { Chart, type Curve } from "./chart";
import { type Domain, domainOf, palette, scaleOf, STEPS, type Scale, type Theme, widened } from "./colour";
import { allOf, siteOf } from "./findings";
import { compact, number, percent } from "./format";
import { useAnswer } from "./live";
import { baselinesOf, css, prepared, relativeTo } from "./paint";
import { StripCanvas } from "./strip_canvas";
import type { Go, View } from "./view";

const BY_RULE: Record<string, string> = {
  dead_units: "dead_fraction",
  saturation: "saturated_fraction",
  non_finite: "nonfinite_fraction",
  constant_output: "std",
};
const USUAL = ["rms", "mean", "std", "absmax", "dead_fraction", "zero_fraction", "saturated_fraction", "nonfinite_fraction"];
const NARROW = 620;
const LARGE = 3_000_000; // statistics from which on a run is opened coarsely first

/** The statistic that shows the gravest finding, until the user chooses one. */
export function defaultStatistic(findings: Findings | undefined): string {
  const first = allOf(findings).find((finding) => finding.rule in BY_RULE || finding.stage !== "contract");
  return BY_RULE[first?.rule ?? ""] ?? "rms";
}

export function gutterOf(): number {
  return innerWidth < NARROW ? 96 : Math.min(220, Math.round(innerWidth * 0.17));
}

export function portsOf(detail: RunDetail): string[] {
  return [...new Set(detail.sites.map((site) => site.port))];
}

/** The tensors that show the gravest finding, until the user chooses. */
export function portOf(detail: RunDetail, view: View, findings: Findings | undefined): string {
  if (view.port) return view.port;
  const ports = portsOf(detail);
  const first = allOf(findings).find((finding) => siteOf(detail, finding) !== undefined);
  const site = first && siteOf(detail, first);
  const own = detail.sites.find((each) => each.name === site)?.port;
  return own ?? (ports.includes("output") ? "output" : ports[0]);
}

export function orderOf(detail: RunDetail, view: View, findings?: Findings): number[] {
  const port = portOf(detail, view, findings);
  const flagged = new Set(allOf(findings).map((finding) => siteOf(detail, finding)));
  const matches = matcher(view.find);
  return detail.sites.flatMap((site, index) =>
    (port === "all" || site.port === port) &&
    matches(site.name) &&
    (view.only !== "findings" || flagged.has(site.name))
      ? [index]
      : [],
  );
}

/** A glob as in the terminal; without a star, any part of the name. */
export function matcher(find: string | undefined): (name: string) => boolean {
  if (!find) return () => true;
  if (!/[*?]/.test(find)) return (name) => name.toLowerCase().includes(find.toLowerCase());
  const text = find.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("**", "\0");
  const glob = new RegExp(`^${text.replaceAll("*", "[^/]*").replaceAll("?", ".").replaceAll("\0", ".*")}$`);
  return (name) => glob.test(name);
}

export interface PanelProps {
  detail: RunDetail;
  findings?: Findings;
  view: View;
  go: Go;
  theme: Theme;
  version: string;
  /** Shared by two panels side by side, so that colours mean the same. */
  domains: { current: Map<string, Domain> };
  whole: [number, number];
  names?: string[];
  gutter: number;
  title?: string;
}

export function StripPanel(props: PanelProps) {
  const { detail, view, go, theme, findings } = props;
  const stat = view.stat ?? defaultStatistic(findings);
  const phase = view.phase ?? "train";
  const range: [number, number] = [view.first ?? props.whole[0], view.last ?? props.whole[1]];
  const own = useMemo(
    () => orderOf(detail, view, findings),
    [detail.sites, view.port, view.find, view.only, findings],
  );
  // Side by side, both panels have the same rows; a layer that one lacks is an empty row.
  const order = useMemo(() => {
    if (!props.names) return own;
    const place = new Map(detail.sites.map((site, index) => [site.name, index]));
    return props.names.map((name) => place.get(name) ?? -1);
  }, [own, props.names, detail.sites]);
  const asked = useMemo(() => spans(order.filter((site) => site >= 0)), [order]);
  const holder = useRef<HTMLDivElement>(null);
  const columns = useColumns(holder, props.gutter);
  const extent = detail.phases[phase];
  const known = Boolean(extent) && order.length > 0;
  const params = {
    run: detail.name,
    statistic: stat,
    phase,
    first: range[0],
    last: range[1],
    columns,
    mode: view.mode,
    sites: order.length === detail.sites.length ? undefined : asked,
  };
  // Of a long run a coarse picture stands at once, with every extreme in it; the fine one follows.
  const [coarse, setCoarse] = useState<Picture>();
  const seen = useRef("");
  const { answer: fine, problem } = useAnswer<Picture>(
    known && columns
      ? async (signal) => {
          const what = `${detail.name}|${stat}|${phase}`;
          if (seen.current !== what && extent.rows > LARGE) setCoarse(await getPicture({ ...params, quick: 1 }, signal));
          seen.current = what;
          return getPicture(params, signal);
        }
      : null,
    [detail.name, stat, phase, range[0], range[1], columns, view.mode, asked, props.version, known],
    undefined,
    true,
  );
  const answer = fine?.statistic === stat ? fine : coarse;
  const picture = answer?.statistic === stat ? answer : undefined;

  const key = `${stat}|${phase}|${view.mode ?? ""}`;
  const baselines = useRef(new Map<string, Float64Array>());
  const relative = view.scale === "start" && picture !== undefined && picture.kind !== "signed";
  const values = useMemo(() => {
    if (!picture) return undefined;
    const domains = props.domains.current;
    domains.set(key, widened(domains.get(key), domainOf(picture.values)));
    if (!relative) return picture.values;
    // The beginning of the run, also when only a later part is in view.
    if (picture.first <= props.whole[0] || !baselines.current.has(key)) {
      baselines.current.set(key, baselinesOf(picture, detail.sites.length));
    }
    return relativeTo(picture, baselines.current.get(key)!);
  }, [picture, relative]);
  const scale = useMemo(
    () => scaleOf(picture?.kind ?? "share", props.domains.current.get(key) ?? domainOf(new Float32Array()), relative),
    [values, key],
  );
  const marks = useMemo(
    () => allOf(findings).map((finding) => ({ ...finding, site: siteOf(detail, finding) ?? finding.site })),
    [findings, detail.sites],
  );

  return (
    <div class="panel" ref={holder}>
      {props.title && <h2 class="run-title">{props.title}</h2>}
      <Loss {...props} window={range} />
      {problem && <p class="problem">{problem}</p>}
      {!detail.sites.length ? (
        <p class="empty">No layer of this run was observed.</p>
      ) : !order.length ? (
        <p class="empty">No layer matches. Clear the filter to see all {detail.sites.length}.</p>
      ) : !extent ? (
        <p class="empty">
          No observed step of phase “{phase}” yet
          {Object.keys(detail.phases).length ? `; this run holds: ${Object.keys(detail.phases).join(", ")}.` : "."}
        </p>
      ) : (
        <>
          <StripCanvas
            run={detail.name}
            phase={phase}
            sites={detail.sites}
            order={order}
            picture={picture}
            values={values}
            scale={scale}
            theme={theme}
            findings={marks}
            window={range}
            whole={props.whole}
            gutter={props.gutter}
            chosen={view.site}
            label={`${stat} of ${order.length} sites over steps ${range[0]} to ${range[1]} of ${detail.name}`}
            onWindow={(next) => go({ first: next?.[0], last: next?.[1] }, true)}
            onSite={(site) => go({ tab: "layer", site, run: detail.name })}
          />
          <Legend scale={scale} kind={picture?.kind} theme={theme} gutter={props.gutter} stat={stat} />
        </>
      )}
    </div>
  );
}

function Loss(props: PanelProps & { window: [number, number] }) {
  const { answer } = useAnswer<{ series: Metrics }>(
    (signal) => getJson("metrics", { run: props.detail.name }, signal),
    [props.detail.name, props.version],
  );
  const curves = useMemo(() => {
    const series = answer?.series ?? {};
    return lossNames(series).map((name): Curve => {
      const points = series[name];
      const dashed = name.startsWith("val_");
      return { label: name === "val_loss" ? "validation loss" : name, step: points.step, value: points.value.map(number), dashed };
    });
  }, [answer]);
  const broken = useMemo(() => {
    const series = answer?.series ?? {};
    const steps = lossNames(series).flatMap((name) => {
      const at = series[name].value.findIndex((value) => !Number.isFinite(number(value)));
      return at < 0 ? [] : [series[name].step[at]];
    });
    return steps.length ? Math.min(...steps) : undefined;
  }, [answer]);
  const marks = useMemo(
    () => (broken === undefined ? [] : [{ step: broken, colour: css("--fault") }]),
    [broken, props.theme],
  );
  if (!curves.length) return null;
  const all = curves.flatMap((each) => each.value);
  const values = all.filter((v): v is number => v !== null && v > 0);
  const log = values.length > 1 && values.length === all.filter((v) => v !== null && Number.isFinite(v)).length && Math.max(...values) / Math.min(...values) > 50;
  return (
    <div class="loss" style={{ "--gutter": `${props.gutter}px` }}>
      <Chart
        curves={curves}
        window={props.window}
        height={96}
        theme={props.theme}
        left={props.gutter}
        log={log}
        marks={marks}
        bare
        label="Loss over steps, as Keras reported it"
        onWindow={(next) => props.go({ first: next?.[0], last: next?.[1] }, true)}
      />
      {broken !== undefined && <p class="why fault">■ The loss is not finite from step {broken} on.</p>}
    </div>
  );
}

/** The loss and its validation; of a training with other ones (a GAN), all that say they are a loss. */
function lossNames(series: Metrics): string[] {
  const known = Object.keys(series);
  if (known.includes("loss")) return ["loss", "val_loss"].filter((name) => known.includes(name));
  return known.filter((name) => /loss/i.test(name)).slice(0, 6);
}

function Legend(props: { scale: Scale; kind?: string; theme: Theme; gutter: number; stat: string }) {
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

export function Controls(props: { detail: RunDetail; view: View; go: Go; findings?: Findings }) {
  const { detail, view, go } = props;
  const stat = view.stat ?? defaultStatistic(props.findings);
  const kind = detail.statistics.find((each) => each.name === stat)?.kind;
  const phases = Object.keys(detail.phases);
  const ports = portsOf(detail);
  const usual = detail.statistics.filter((each) => USUAL.includes(each.name));
  const rest = detail.statistics.filter((each) => !USUAL.includes(each.name));
  const about = detail.statistics.find((each) => each.name === stat)?.about;
  const option = (each: { name: string; about: string }) => (
    <option value={each.name} title={each.about}>
      {each.name}
    </option>
  );
  return (
    <div class="controls" role="group" aria-label="What is shown">
      <label>
        Statistic
        <select value={stat} title={about} onChange={(e) => go({ stat: e.currentTarget.value })}>
          <optgroup label="Usual">{usual.map(option)}</optgroup>
          <optgroup label="All">{rest.map(option)}</optgroup>
        </select>
      </label>
      {phases.length > 1 && (
        <label>
          Phase
          <select
            value={view.phase ?? "train"}
            onChange={(e) => go({ phase: e.currentTarget.value, first: undefined, last: undefined })}
          >
            {phases.map((phase) => (
              <option value={phase}>{phase}</option>
            ))}
          </select>
        </label>
      )}
      {ports.length > 1 && (
        <label>
          Tensor
          <select
            value={portOf(detail, view, props.findings)}
            onChange={(e) => go({ port: e.currentTarget.value })}
          >
            {[...ports, "all"].map((port) => (
              <option value={port}>{port}</option>
            ))}
          </select>
        </label>
      )}
      <label>
        Colour
        <select
          value={kind === "signed" ? "" : (view.scale ?? "")}
          disabled={kind === "signed"}
          onChange={(e) => go({ scale: e.currentTarget.value || undefined })}
        >
          <option value="">same scale for all</option>
          <option value="start">against its own beginning</option>
        </select>
      </label>
      <label>
        A cell shows
        <select value={view.mode ?? "notable"} onChange={(e) => go({ mode: e.currentTarget.value })}>
          <option value="notable">mean, or what stands out</option>
          <option value="mean">mean</option>
          <option value="min">smallest</option>
          <option value="max">largest</option>
        </select>
      </label>
      <label>
        Layers
        <input
          type="search"
          placeholder="name or glob"
          value={view.find ?? ""}
          onInput={(e) => go({ find: e.currentTarget.value || undefined }, true)}
        />
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={view.only === "findings"}
          onChange={(e) => go({ only: e.currentTarget.checked ? "findings" : undefined })}
        />
        only with findings
      </label>
      {(view.first !== undefined || view.last !== undefined) && (
        <button type="button" onClick={() => go({ first: undefined, last: undefined })}>
          All steps
        </button>
      )}
    </div>
  );
}

/** `0-9,12`: which sites a picture is asked for. */
function spans(sites: number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < sites.length; ) {
    let end = i;
    while (end + 1 < sites.length && sites[end + 1] === sites[end] + 1) end++;
    parts.push(end > i ? `${sites[i]}-${sites[end]}` : `${sites[i]}`);
    i = end + 1;
  }
  return parts.join(",");
}

function useColumns(holder: { current: HTMLDivElement | null }, gutter: number): number {
  const [columns, setColumns] = useState(0);
  useEffect(() => {
    const measure = () => {
      const width = (holder.current?.clientWidth ?? 800) - gutter - 12;
      // In steps of 50, so that dragging a window's edge does not ask at every pixel.
      setColumns(Math.max(50, Math.floor(width / 50) * 50));
    };
    measure();
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, [gutter]);
  return columns;
}
