// Which words of two texts differ: those that no longest common sequence holds.

/** Of each text, its words as {word, differs}. */
export function compare(one, other) {
  const a = one.split(/\s+/).filter(Boolean), b = other.split(/\s+/).filter(Boolean);
  if (a.length * b.length > 1e6) return [a, b].map((words) => words.map((word) => ({ word, differs: false })));
  const length = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
  const found = [a.map((word) => ({ word, differs: true })), b.map((word) => ({ word, differs: true }))];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) found[0][i++].differs = found[1][j++].differs = false;
    else if (length[i + 1][j] >= length[i][j + 1]) i++;
    else j++;
  }
  return found;
}
