/** Numbers as people read them. */

/** `0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`. */
export function ageText(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 119.5) return `${Math.round(seconds)} s`;
  if (seconds < 7_170) return `${Math.round(seconds / 60)} min`;
  if (seconds < 171_000) return `${Math.round(seconds / 3_600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** `840 B`, `1.5 MiB`. */
export function bytesText(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1_024 && unit < units.length - 1; unit++) bytes /= 1_024;
  return `${unit === 0 || bytes >= 99.5 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

/** `1,234,567`. */
export function countText(count: number): string {
  return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** `1 write`, `2 writes`. */
export function plural(count: number, what: string): string {
  return `${countText(count)} ${what}${count === 1 ? "" : "s"}`;
}

/** `2026-06-30 12:00:01Z`. */
export function timeText(iso: string): string {
  return new Date(iso).toISOString().replace("T", " ").replace(/\.\d+/, "");
}

const LONGEST_KEY = 80;

/** A key in quotes, on one line and not too long for it. */
export function quoteKey(key: string): string {
  const plain = key.replace(/\p{Cc}/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
  return `'${plain.length > LONGEST_KEY ? `${plain.slice(0, LONGEST_KEY)}…` : plain}'`;
}
