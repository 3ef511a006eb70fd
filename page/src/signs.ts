// The signs of severities, which read without colours.

export const SIGNS = { fault: "■", warning: "▲", note: "●" } as const;
