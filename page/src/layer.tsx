// One layer: what it is, what was found, its statistics and the spread of its values over time.

import { useMemo } from "preact/hooks";
import { type Findings, getJson, type Line, type RunDetail, type Site } from "./api";
import { Beside, curve } from "./beside";
import { Chart } from "./chart";
import type { Theme } from "./colour";
import { FanChart } from "./fan";
import { allOf, FindingCard, siteOf } from "./findings";
import { shape, whole } from "./format";
import { useAnswer } from "./live";
import { css } from "./paint";
import { orderOf } from "./chosen";
import { UnitsCard } from "./units";
import type { Go, View } from "./view";

interface Group {
  title: string;
  names: string[];
  share?: boolean;
  log?: boolean;
}

const GROUPS: Group[] = [
  { title: "Magnitude", names: ["rms", "std", "absmax"], log: true },
  { title: "Shares of elements and units", names: ["dead_fraction", "zero_fraction", "saturated_fraction", "nonfinite_fraction"], share: true },
  { title: "Mean and range", names: ["mean", "min", "max"] },
];

interface Props {
  detail: RunDetail;
  findings?: Findings;
  view: View;
  go: Go;
  theme: Theme;
  version: string;
  whole: [number, number];
}

export function neighbour(detail: RunDetail, view: View, findings: Findings | undefined, by: number): string {
  const order = orderOf(detail, view, findings);
  const names = (order.length ? order : detail.sites.map((_, i) => i)).map((i) => detail.sites[i].name);
  const at = names.indexOf(view.site ?? "");
  return names[(at + by + names.length) % names.length] ?? names[0];
}

export function LayerView(props: Props) {
  const { detail, view, go, findings } = props;
  const site = detail.sites.find((each) => each.name === view.site);
  const own = allOf(findings).filter((finding) => siteOf(detail, finding) === view.site);
  const picker = (
    <div class="controls">
      <label>
        Layer
        <select value={site?.name ?? ""} onChange={(e) => go({ site: e.currentTarget.value })}>
          {!site && <option value="">choose a layer</option>}
          {detail.sites.map((each) => (
            <option value={each.name}>{each.name}</option>
          ))}
        </select>
      </label>
      <button type="button" onClick={() => go({ site: neighbour(detail, view, findings, -1) })}>
        <span aria-hidden="true">↑</span> Previous <kbd>k</kbd>
      </button>
      <button type="button" onClick={() => go({ site: neighbour(detail, view, findings, 1) })}>
        <span aria-hidden="true">↓</span> Next <kbd>j</kbd>
      </button>
      <button type="button" onClick={() => go({ tab: "strip" })}>
        Show in the strip
      </button>
      {(view.first !== undefined || view.last !== undefined) && (
        <button type="button" onClick={() => go({ first: undefined, last: undefined })}>
          All steps
        </button>
      )}
    </div>
  );
  if (!detail.sites.length) return <p class="empty">This run has no layer yet.</p>;
  if (!site) {
    return (
      <>
        {picker}
        <p class="empty">
          {view.site ? `This run has no site “${view.site}”.` : "Choose a layer, or click on one in the strip chart."}
        </p>
      </>
    );
  }
  return (
    <>
      {picker}
      <h2 class="site-title">{site.name}</h2>
      <Facts site={site} detail={detail} />
      {own.map((finding) => (
        <FindingCard finding={finding} detail={detail} go={go} />
      ))}
      <Charts {...props} site={site} marks={own.map((f) => ({ step: f.first_step, severity: f.severity }))} />
    </>
  );
}

function Facts({ site, detail }: { site: Site; detail: RunDetail }) {
  const layer = detail.graph.layers?.find((each) => each.path === site.path);
  const facts: [string, string][] = [
    ["Class", site.class],
    ["Shape of a step", shape(site.shape)],
    ["Dtype", site.dtype],
    ["Activation", site.activation ?? "none"],
    ["Tensor", site.port],
  ];
  if (layer) facts.push(["Parameters", whole(layer.parameters)], ["Trainable", layer.trainable ? "yes" : "no"]);
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

type Series = Record<string, Line>;

function Charts(props: Props & { site: Site; marks: { step: number; severity: string }[] }) {
  const { detail, view, site } = props;
  const phase = view.phase ?? "train";
  const range: [number, number] = [view.first ?? props.whole[0], view.last ?? props.whole[1]];
  const names = GROUPS.flatMap((group) => group.names);
  const asked = { run: detail.name, phase, first: range[0], last: range[1], columns: 600 };
  const { answer, problem } = useAnswer<{ series: Series }>(
    detail.phases[phase]
      ? (signal) => getJson("series", { ...asked, site: site.name, statistic: names.join(",") }, signal)
      : null,
    [detail.name, phase, range[0], range[1], site.name, props.version],
  );
  const marks = useMemo(
    () => props.marks.map((mark) => ({ step: mark.step, colour: css(`--${mark.severity}`) })),
    [props.marks.map((m) => `${m.step}${m.severity}`).join(), props.theme],
  );
  const groups = useMemo(() => groupsOf(answer?.series), [answer]);
  if (!detail.phases[phase]) return <p class="empty">No observed step of phase “{phase}” yet.</p>;
  const shared = { window: range, theme: props.theme, marks };
  const counted = groups.some(({ curves }) => curves.some((each) => each.label === "dead_fraction"));
  const onWindow = (next: [number, number] | null) => props.go({ first: next?.[0], last: next?.[1] }, true);
  return (
    <>
      {problem && <p class="problem">{problem}</p>}
      {!answer && !problem && <p class="empty">Reading the statistics of this layer …</p>}
      <div class="cards">
        {groups.map(({ group, curves, log }) => (
          <section class="card" key={group.title}>
            <h3>{group.title}</h3>
            <Chart {...shared} curves={curves} height={210} share={group.share} log={log} label={`${group.title} of ${site.name}`} onWindow={onWindow} />
          </section>
        ))}
        <FanChart run={detail.name} site={site.name} phase={phase} window={range} version={props.version} theme={props.theme} />
        <UnitsCard run={detail.name} site={site} phase={phase} window={range} version={props.version} theme={props.theme} counted={counted} />
        <Beside detail={detail} site={site} phase={phase} version={props.version} go={props.go} {...shared} onWindow={onWindow} />
      </div>
    </>
  );
}

function groupsOf(series: Series | undefined) {
  if (!series) return [];
  return GROUPS.flatMap((group) => {
    const curves = group.names.flatMap((name) => {
      const line = series[name];
      // A share that does not apply to this layer is not drawn as nothing.
      if (!line?.mean.some((value) => value !== null)) return [];
      return [curve(name, line)];
    });
    const values = curves.flatMap((each) => each.value).filter((v): v is number => v !== null && v > 0);
    const log = group.log && values.length > 1 && Math.max(...values) / Math.min(...values) > 100;
    return curves.length ? [{ group, curves, log }] : [];
  });
}
