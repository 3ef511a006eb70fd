// Light or dark: as the system says, until the user chooses.

import { useEffect, useState } from "preact/hooks";
import type { Theme } from "./colour";

const KEY = "fitscope-theme";

export function useTheme(): [Theme, () => void] {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const [chosen, setChosen] = useState<Theme | null>(stored());
  const [dark, setDark] = useState(system.matches);
  const theme: Theme = chosen ?? (dark ? "dark" : "light");
  // At once and not in an effect: what is drawn in this pass reads the colours.
  document.documentElement.dataset.theme = theme;
  useEffect(() => {
    const change = (event: MediaQueryListEvent) => setDark(event.matches);
    system.addEventListener("change", change);
    return () => system.removeEventListener("change", change);
  }, []);
  return [
    theme,
    () => {
      const next = theme === "dark" ? "light" : "dark";
      setChosen(next);
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // Storage may be switched off; the choice then lasts as long as the page.
      }
    },
  ];
}

function stored(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : null;
  } catch {
    return null;
  }
}
