// What a prediction says, read the same way for classes and for numbers.

import { percent, short } from "./format.js";

/** The answer in a few words. */
export function guess(answer) {
  if (answer.probabilities) return `${answer.label}, ${percent(answer.probabilities[answer.label])}`;
  return Object.values(answer.label).map(short).join(", ");
}

/** One number for an uncertainty that may be one a target. */
export const joined = (part) => (typeof part === "number" ? part : mean(Object.values(part)));

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The total uncertainty. */
export const overall = (answer) => joined(answer.total);
