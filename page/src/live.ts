// Following a run: what changes is asked for again, not more often than the server can afford.

import { useEffect, useRef, useState } from "preact/hooks";
import { getJson, Problem, type RunDetail, type State } from "./api";

const TICK = 1000;
const LONGEST = 30_000;
// At first nobody wants to wait, and opening a run is work that does not come again.
const EAGER_TICKS = 10;
const EAGER = 1500;

export interface Followed {
  run?: string;
  detail?: RunDetail;
  version: string;
  problem?: string;
}

export function useFollowed(run: string | undefined): Followed {
  const [followed, setFollowed] = useState<Followed>({ version: "" });
  useEffect(() => {
    if (run === undefined) return;
    const ending = new AbortController();
    let detail: RunDetail | undefined;
    let timer = 0;
    let ticks = 0;
    const again = (delay: number) => {
      if (!ending.signal.aborted) timer = window.setTimeout(tick, delay);
    };
    const load = async () => {
      detail = await getJson<RunDetail>("run", { run }, ending.signal);
      setFollowed({ run, detail, version: detail.version });
    };
    const tick = async () => {
      let delay = TICK;
      try {
        if (document.hidden) return again(TICK);
        if (!detail) await load();
        else {
          const state = await getJson<State>("state", { run, version: detail.version }, ending.signal);
          const longest = ticks++ < EAGER_TICKS ? EAGER : LONGEST;
          delay = Math.min(longest, Math.max(TICK, (state.rest ?? 0) * 1000));
          if (state.changed) {
            if (state.sites !== detail.sites.length || state.status !== detail.status) await load();
            else {
              detail = {
                ...detail,
                version: state.version,
                lost_steps: state.lost_steps ?? 0,
                phases: state.phases ?? detail.phases,
              };
              setFollowed({ run, detail, version: detail.version });
            }
          } else {
            setFollowed((now) => (now.problem ? { ...now, problem: undefined } : now));
          }
        }
      } catch (error) {
        if (ending.signal.aborted) return;
        const problem = error instanceof Error ? error.message : String(error);
        setFollowed({ run, detail, version: detail?.version ?? "", problem });
        if (error instanceof Problem && error.status === 401) return;
        delay = 2000;
      }
      again(delay);
    };
    void tick();
    return () => {
      ending.abort();
      clearTimeout(timer);
    };
  }, [run]);
  // Until the first answer about another run, what is known is about the one before.
  return followed.run === run ? followed : { run, version: "" };
}

/** What a question is answered with; asked again when one of `deps` changes. The last answer stands
 * meanwhile, unless it is about another `subject`. A patient one is asked again only when it was
 * answered: a server goes on working on a question that nobody waits for any more, so that turning
 * a wheel would pile them up. */
export function useAnswer<T>(
  question: ((signal: AbortSignal) => Promise<T>) | null,
  deps: unknown[],
  subject?: string,
  patient = false,
): { answer?: T; problem?: string; waiting: boolean } {
  const initial: { answer?: T; problem?: string; waiting: boolean; subject?: string } = { waiting: true, subject };
  const [state, setState] = useState(initial);
  const latest = useRef<AbortController>(undefined);
  const busy = useRef(false);
  const next = useRef<() => void>(undefined);
  useEffect(() => {
    if (!question) {
      latest.current?.abort();
      busy.current = false;
      return;
    }
    const begin = () => {
      latest.current?.abort();
      const ending = new AbortController();
      latest.current = ending;
      busy.current = true;
      setState((now) => (now.subject === subject ? { ...now, waiting: true } : { waiting: true, subject }));
      const done = (state: (now: typeof initial) => typeof initial) => {
        if (ending.signal.aborted) return;
        setState(state);
        busy.current = false;
        const waiting = next.current;
        next.current = undefined;
        waiting?.();
      };
      question(ending.signal).then(
        (answer) => done(() => ({ answer, waiting: false, subject })),
        (error) => done((now) => ({ ...now, problem: error.message, waiting: false })),
      );
    };
    if (patient && busy.current) next.current = begin;
    else begin();
  }, deps);
  useEffect(() => () => {
    next.current = undefined;
    latest.current?.abort();
  }, []);
  return state.subject === subject ? state : { waiting: true };
}
