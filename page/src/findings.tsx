// What was found: in one line above everything, and in full.

import type { Finding, Findings, RunDetail } from "./api";
import { compact, percent, whole } from "./format";
import { SIGNS } from "./signs";
import type { Go } from "./view";

const BY_RULE: Record<string, string> = {
  dead_units: "Dead units",
  saturation: "Saturated",
  non_finite: "Not finite",
  constant_output: "Constant output",
};
const SHOWN = 3;

export function title(rule: string): string {
  return BY_RULE[rule] ?? rule.replaceAll("_", " ");
}

/** The site that a finding is at; a finding about the loss, the data or `fit` is at none. */
export function siteOf(detail: RunDetail, finding: Finding): string | undefined {
  const known = detail.sites.find((site) => site.name === finding.site);
  return (known ?? detail.sites.find((site) => site.path === finding.site))?.name;
}

/** All findings, each before those that it explains. */
export function allOf(findings: Findings | undefined): Finding[] {
  return (findings?.findings ?? []).flatMap((finding) => [finding, ...(finding.consequences ?? [])]);
}

/** Since when, as a newcomer asks it. */
function since(finding: Finding): string {
  return finding.stage === "contract" ? "before the first step" : `since step ${whole(finding.first_step)}`;
}

function Where(props: { finding: Finding; detail: RunDetail; go: Go }) {
  const site = siteOf(props.detail, props.finding);
  if (site === undefined) return <strong class="place">{props.finding.site}</strong>;
  return (
    <button type="button" class="link strong" onClick={() => props.go({ tab: "layer", site })}>
      {props.finding.site}
    </button>
  );
}

export function Verdict(props: { detail: RunDetail; findings?: Findings; go: Go }) {
  const { detail, findings, go } = props;
  const observed = detail.phases.train?.observed ?? 0;
  if (!findings) return <section class="verdict wait" aria-label="Findings">Looking for findings …</section>;
  if (!findings.findings.length && !observed) return null;
  if (!findings.findings.length && !findings.complete) {
    return (
      <section class="verdict wait" aria-label="Findings">
        <strong>Nothing stands out so far.</strong> {findings.note}
      </section>
    );
  }
  if (!findings.findings.length) {
    return (
      <section class="verdict fine" aria-label="Findings">
        <strong>Nothing stands out</strong> in {whole(observed)} observed training steps.
        {findings.note && <span class="dim"> {findings.note}</span>}
      </section>
    );
  }
  const first = findings.findings.slice(0, SHOWN);
  const more = findings.findings.length - first.length;
  return (
    <section class={`verdict ${first[0].severity}`} aria-label="Findings">
      {first.map((finding) => (
        <div key={finding.rule + finding.site}>
          <Line finding={finding} detail={detail} go={go} />
          {ledTo(finding).map((each) => (
            <Line key={each.rule + each.site} finding={each} detail={detail} go={go} led />
          ))}
        </div>
      ))}
      {more > 0 && (
        <button type="button" class="link" onClick={() => go({ tab: "findings" })}>
          {more} more
        </button>
      )}
    </section>
  );
}

function Line(props: { finding: Finding; detail: RunDetail; go: Go; led?: boolean }) {
  const { finding, led } = props;
  return (
    <p class={led ? "led" : ""}>
      <span class={`sign ${finding.severity}`}>
        {led ? "leads to " : ""}
        {SIGNS[finding.severity]} {finding.severity}
      </span>{" "}
      <Where {...props} /> <span class="since">{since(finding)}</span>{" "}
      <span class="message">{finding.message}</span>
    </p>
  );
}

/** What a finding explains, where that is at a layer: what is unwell, though the cause lies elsewhere. */
function ledTo(finding: Finding): Finding[] {
  return (finding.consequences ?? []).filter((each) => each.stage !== "contract" && each.site !== "rule").slice(0, 2);
}

export function FindingCard(props: { finding: Finding; detail: RunDetail; go: Go; linked?: boolean }) {
  const { finding, detail, go } = props;
  const Heading = props.linked ? "h2" : "h3";
  return (
    <article class={`finding ${finding.severity}`}>
      <Heading>
        <span class={`sign ${finding.severity}`}>
          {SIGNS[finding.severity]} {finding.severity}
        </span>{" "}
        {title(finding.rule)}
        {props.linked && (
          <>
            {": "}
            <Where finding={finding} detail={detail} go={go} />
          </>
        )}
      </Heading>
      <p>{finding.message}</p>
      <p class="dim">
        {finding.stage === "contract"
          ? "Before the first step."
          : `From step ${whole(finding.first_step)}${
              finding.last_step > finding.first_step ? ` to ${whole(finding.last_step)}` : ""
            }.`}{" "}
        {finding.why}
      </p>
      {finding.remedy && (
        <p>
          <strong>What to do.</strong> {finding.remedy}
        </p>
      )}
      {finding.consequences && finding.consequences.length > 0 && (
        <p class="dim">
          Explains: {finding.consequences.map((each) => `${title(each.rule)} (${each.site}, ${since(each)})`).join(", ")}.
        </p>
      )}
      {Object.keys(finding.evidence).length > 0 && (
        <details>
          <summary>Evidence</summary>
          <dl class="facts">
            {Object.entries(finding.evidence).map(([name, value]) => (
              <div>
                <dt>{name.replaceAll("_", " ")}</dt>
                <dd>{evidence(name, value)}</dd>
              </div>
            ))}
          </dl>
        </details>
      )}
    </article>
  );
}

function evidence(name: string, value: unknown): string {
  if (typeof value === "number") return name.includes("share") ? percent(value) : compact(value);
  if (Array.isArray(value)) return value.map((each) => evidence(name, each)).join(", ");
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

export function FindingsView(props: { detail: RunDetail; findings?: Findings; go: Go }) {
  const { detail, findings, go } = props;
  return (
    <>
      {!findings ? (
        <p class="empty">Looking for findings …</p>
      ) : !findings.findings.length ? (
        <p class="empty">The rules found nothing so far.</p>
      ) : (
        findings.findings.map((finding) => <FindingCard finding={finding} detail={detail} go={go} linked />)
      )}
      {findings?.note && <p class="dim">{findings.note}</p>}
      {detail.unseen.length > 0 && (
        <section>
          <h2>Not seen</h2>
          <p class="dim">Selected, and not observed; nothing is left out in silence.</p>
          <table>
            <thead>
              <tr>
                <th>Site</th>
                <th>Why</th>
                <th>What to do</th>
              </tr>
            </thead>
            <tbody>
              {detail.unseen.map((gap) => (
                <tr>
                  <td>{gap.site}</td>
                  <td>{gap.reason}</td>
                  <td>{gap.remedy}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </>
  );
}
