// How numbers are written, everywhere the same.

const NONE = "–";

/** A number to so many digits behind the point; a dash for none. */
export const fixed = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : NONE);

/** A share as a percentage. */
export const percent = (value, digits = 0) => (Number.isFinite(value) ? `${(100 * value).toFixed(digits)} %` : NONE);

/** A whole number with separators. */
export const count = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en-GB") : NONE);

/** A measured value, to four significant digits. */
export function short(value) {
  if (!Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e6 || size < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

/** A time that is measured and never the same twice: two digits say enough. */
export const pace = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(2))) : NONE);

/** Bytes in the unit that leaves one to three digits before the point. */
export function bytes(value) {
  if (!Number.isFinite(value)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  const at = Math.min(units.length - 1, value < 1 ? 0 : Math.floor(Math.log10(value) / 3));
  const scaled = value / 1000 ** at;
  return `${at === 0 || scaled >= 100 ? Math.round(scaled) : scaled.toFixed(1)} ${units[at]}`;
}

/** Seconds as a person would say them: never more exact than an estimate can be. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds < 10) return `${Math.ceil(seconds)} s`;
  if (seconds < 90) return `${Math.ceil(seconds / 5) * 5} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** A moment as so long ago. */
export function ago(iso) {
  const seconds = (Date.now() - new Date(iso).getTime()) / 1000;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}
