// The first view: what is unwell and since when, loss, and every layer over all steps.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Findings, getPicture, type Picture, type RunDetail } from "./api";
import { defaultStatistic, orderOf } from "./chosen";
import { type Domain, domainOf, scaleOf, type Theme, widened } from "./colour";
import { allOf, siteOf } from "./findings";
import { Legend } from "./legend";
import { useAnswer } from "./live";
import { Loss } from "./loss";
import { baselinesOf, relativeTo } from "./paint";
import { StripCanvas } from "./strip_canvas";
import type { Go, View } from "./view";

const NARROW = 620;
const LARGE = 3_000_000; // statistics from which on a run is opened coarsely first

export function gutterOf(): number {
  return innerWidth < NARROW ? 96 : Math.min(220, Math.round(innerWidth * 0.17));
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
