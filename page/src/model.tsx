// The model: its graph, nested blocks folded, coloured by a statistic or by findings.

import { useMemo, useState } from "preact/hooks";
import { type Findings, getPicture, type Picture, type RunDetail } from "./api";
import { domainOf, palette, scaleOf, STEPS, type Theme } from "./colour";
import { shown as shownNumber, whole } from "./format";
import { allOf } from "./findings";
import { containers, layOut, MOST, type Node } from "./graph";
import { useAnswer } from "./live";
import { defaultStatistic } from "./chosen";
import { SIGNS } from "./signs";
import type { Go, View } from "./view";

const GRAVITY = ["fault", "warning", "note"] as const;

interface Props {
  detail: RunDetail;
  findings?: Findings;
  view: View;
  go: Go;
  theme: Theme;
  version: string;
}

export function ModelView(props: Props) {
  const { detail, view, go, findings, theme } = props;
  const layers = detail.graph.layers ?? [];
  const inside = useMemo(() => {
    const found = containers(layers);
    found.delete(detail.graph.name ?? ""); // the root model is the whole picture
    return found;
  }, [layers]);
  const unfolded = useMemo(() => new Set((view.open ?? "").split("\n").filter(Boolean)), [view.open]);
  const layout = useMemo(() => layOut(detail.graph, unfolded), [detail.graph, unfolded]);
  const [zoom, setZoom] = useState(1);
  const stat = view.stat ?? defaultStatistic(findings);
  const phase = view.phase ?? "train";
  const last = detail.phases[phase]?.last;
  const { answer } = useAnswer<Picture>(
    last === undefined
      ? null
      : (signal) => getPicture({ run: detail.name, statistic: stat, phase, columns: 1, first: last, last }, signal),
    [detail.name, stat, phase, last, props.version],
  );
  const values = useMemo(() => valuesByPath(detail, answer), [detail.sites, answer]);
  const colour = useMemo(() => {
    if (!answer) return () => undefined;
    const scale = scaleOf(answer.kind, domainOf(answer.values), false);
    const colours = palette(theme, scale.diverging);
    return (value: number | undefined) => {
      if (value === undefined || !Number.isFinite(value)) return undefined;
      const at = Math.max(0, Math.min(STEPS - 1, Math.round(scale.place(value) * (STEPS - 1)))) * 4;
      return `rgb(${colours[at]} ${colours[at + 1]} ${colours[at + 2]})`;
    };
  }, [answer, theme]);
  if (!layers.length) {
    return <p class="empty">This run holds no graph of its model: it is written with the first observed step.</p>;
  }
  const open = (path: string, unfold: boolean) => {
    const next = new Set(unfolded);
    if (unfold) next.add(path);
    else for (const each of [...next]) if (each === path || each.startsWith(`${path}/`)) next.delete(each);
    go({ open: [...next].join("\n") || undefined });
  };
  const press = (node: Node) => {
    if (node.inside) return open(node.path, true);
    const site = detail.sites.find((each) => each.path === node.path);
    if (site) go({ tab: "layer", site: site.name });
  };
  return (
    <>
      <div class="controls">
        <label>
          Colour by
          <select value={stat} onChange={(e) => go({ stat: e.currentTarget.value })}>
            {detail.statistics.map((each) => (
              <option value={each.name} title={each.about}>
                {each.name}
              </option>
            ))}
          </select>
        </label>
        <button type="button" onClick={() => setZoom((z) => Math.min(2, z * 1.25))}>
          Larger
        </button>
        <button type="button" onClick={() => setZoom((z) => Math.max(0.3, z / 1.25))}>
          Smaller
        </button>
        {inside.size > 0 && (
          <button type="button" onClick={() => go({ open: unfolded.size ? undefined : [...inside.keys()].join("\n") })}>
            {unfolded.size ? "Fold all blocks" : "Unfold all blocks"}
          </button>
        )}
        {[...unfolded].map((path) => (
          <button type="button" class="chip" onClick={() => open(path, false)}>
            Fold {path}
          </button>
        ))}
      </div>
      <p class="dim">
        {detail.graph.class} “{detail.graph.name}”, {whole(detail.graph.parameters ?? 0)} parameters.
        {!detail.graph.edges?.length && " This kind of model does not say what feeds what; its layers stand in their order."}
        {layout.hidden > 0 && ` ${whole(layout.hidden)} of its layers are left out: at most ${MOST} are drawn. Fold blocks to see the rest.`}
      </p>
      <div class="scroll graph" tabIndex={0} role="region" aria-label="Graph of the model">
        <svg
          width={layout.width * zoom}
          height={layout.height * zoom}
          viewBox={`0 0 ${layout.width} ${layout.height}`}
          role="group"
          aria-label={`${layout.nodes.length} layers`}
        >
          <defs>
            <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
              <path d="M0 0 L8 4 L0 8 Z" class="arrow" />
            </marker>
          </defs>
          {layout.edges.map((edge) => (
            <path class="edge" marker-end="url(#arrow)" d={`M${edge.points.map((p) => `${p.x} ${p.y}`).join(" L")}`} />
          ))}
          {layout.nodes.map((node) => {
            const found = worst(findings, node.path);
            const value = values.get(node.path);
            const fill = colour(value);
            const what = answer && value !== undefined ? `${stat} ${shownNumber(value, answer.kind)}` : node.class;
            const words = [node.path, node.class, what, node.inside ? `${node.inside} layers inside, folded` : "", found ? `${found.severity}: ${found.message}` : ""];
            return (
              <g
                key={node.path}
                class={`node ${found?.severity ?? ""} ${node.inside ? "folded" : ""}`}
                transform={`translate(${node.x - node.width / 2} ${node.y - node.height / 2})`}
                role="button"
                tabindex={0}
                onClick={() => press(node)}
                onKeyDown={(e) => {
                  if (e.key === "Enter" || e.key === " ") {
                    e.preventDefault();
                    press(node);
                  }
                }}
              >
                <title>{words.filter(Boolean).join(", ")}</title>
                <rect width={node.width} height={node.height} rx="7" />
                {fill && <rect class="value" x="5" y="6" width="9" height={node.height - 12} rx="3" style={{ fill }} />}
                <text x="20" y="16" aria-hidden="true">
                  {found ? `${SIGNS[found.severity]} ` : ""}
                  {cut(node.label, node.width)}
                  {node.inside ? ` (+${node.inside})` : ""}
                </text>
                <text x="20" y="31" class="small" aria-hidden="true">
                  {cut(value === undefined || !answer ? node.class : `${node.class} ${shownNumber(value, answer.kind)}`, node.width)}
                </text>
              </g>
            );
          })}
        </svg>
      </div>
    </>
  );
}

function cut(text: string, width: number): string {
  const most = Math.floor((width - 26) / 6.6);
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

function worst(findings: Findings | undefined, path: string) {
  const own = allOf(findings).filter(({ site }) => {
    const at = site.replace(/[#:[].*$/, "");
    return at === path || at.startsWith(`${path}/`);
  });
  return own.sort((a, b) => GRAVITY.indexOf(a.severity) - GRAVITY.indexOf(b.severity))[0];
}

function valuesByPath(detail: RunDetail, picture: Picture | undefined): Map<string, number> {
  const found = new Map<string, number>();
  picture?.sites.forEach((site, row) => {
    const path = detail.sites[site]?.path;
    const value = picture.values[row];
    if (path !== undefined && detail.sites[site].port === "output" && Number.isFinite(value) && !found.has(path)) {
      found.set(path, value);
    }
  });
  return found;
}
