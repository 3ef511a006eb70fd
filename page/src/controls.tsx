// What the strip chart is to show.

import type { Findings, RunDetail } from "./api";
import { defaultStatistic, portOf, portsOf, USUAL } from "./chosen";
import type { Go, View } from "./view";

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
