"use strict";

// Word-level difference of two texts, by their longest common subsequence.

/** Words, single signs, and the spaces between them. */
function words(text) {
  return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

/** Spaces of any kind are the same. */
function sameWord(a, b) {
  return a === b || (a.trim() === "" && b.trim() === "");
}

// A table of this many cells takes some milliseconds; longer texts are told apart as a whole.
const DIFFERENCE_CELLS = 1_000_000;

/**
 * What turns `before` into `after`: a list of [kind, text] with the kinds "same", "removed" and "added".
 * Beginning and end that both share are never looked at twice.
 */
function difference(before, after) {
  const a = words(before);
  const b = words(after);
  let start = 0;
  while (start < a.length && start < b.length && sameWord(a[start], b[start])) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && sameWord(a[a.length - 1 - end], b[b.length - 1 - end])) {
    end += 1;
  }
  const parts = [];
  const push = (kind, text) => {
    const last = parts[parts.length - 1];
    if (text === "") return;
    if (last && last[0] === kind) last[1] += text;
    else parts.push([kind, text]);
  };
  push("same", b.slice(0, start).join(""));
  for (const [kind, word] of middle(a.slice(start, a.length - end), b.slice(start, b.length - end))) push(kind, word);
  push("same", b.slice(b.length - end).join(""));
  return parts;
}

function middle(a, b) {
  if (a.length * b.length > DIFFERENCE_CELLS) return [["removed", a.join("")], ["added", b.join("")]];
  // common[i][j]: words that a from i and b from j share at most.
  const width = b.length + 1;
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      common[i * width + j] = sameWord(a[i], b[j])
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const parts = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && sameWord(a[i], b[j])) {
      parts.push(["same", b[j]]);
      i += 1;
      j += 1;
    } else if (j === b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) {
      parts.push(["removed", a[i]]);
      i += 1;
    } else {
      parts.push(["added", b[j]]);
      j += 1;
    }
  }
  return parts;
}
