// From a question and labels to an order of all chips, and to sentences about how sure it is.

import { enough, expectations, precisionOnLabels } from "./certainty.js";
import { best, rowOf, scoresOf } from "./ranking.js";
import { FEW, middleOf, propose, spaceOf, teach } from "./teaching.js";

const MOST = 400; // labels that are learnt from: the work grows with their third power
const PROPOSED = 6;

// The rounded vectors of the page, as teaching asks for them
export function vectorsOf(site) {
  return {
    count: site.count,
    width: site.width,
    row: (row) => Float64Array.from(rowOf(site, row)),
    products: (weights) => scoresOf(site, weights),
    addTo(sum, row) {
      const { middles, steps, vectors: bytes, width } = site;
      for (let i = 0, j = row * width; i < width; i++, j++) sum[i] += middles[i] + steps[i] * bytes[j];
    },
  };
}

export function makeLearner(site) {
  const vectors = vectorsOf(site);
  let middle = null;
  let space = { key: null };
  let history = []; // for one question, how good the order was expected to be

  // Where nothing was typed and nothing clicked, the mean of yes stands for a text.
  function towards(direction, labels) {
    if (direction) return direction;
    const yes = [...labels].filter(([, label]) => label === "yes").map(([row]) => vectors.row(row));
    if (!yes.length) return null;
    return yes.reduce((sum, x) => sum.map((value, i) => value + x[i]));
  }

  return {
    // `key` names the direction, so that what is known of it is kept; `labels` is a Map of row to label; `wanted` is how many are shown
    answer(direction, key, labels, wanted) {
      const begun = towards(direction, labels);
      if (!begun) return { scores: null, order: [...Array(Math.min(wanted, site.count)).keys()], next: [], probabilities: null };
      middle ??= middleOf(vectors);
      const name = direction ? key : `${key} ${[...labels]}`;
      if (space.key !== name) {
        if (!direction || space.question !== key) history = [];
        space = { key: name, question: key, whole: spaceOf(vectors, middle, begun) };
      }
      const order = (scores, more = 0) => best(scores, Math.max(wanted, 20 * PROPOSED) + more);
      if (!space.whole) return { scores: scoresOf(site, begun), order: order(scoresOf(site, begun)), next: [], probabilities: null };
      const used = [...labels].slice(-MOST);
      const rows = used.map(([row]) => row);
      const yes = used.map(([, label]) => label === "yes");
      const lesson = teach(vectors, space.whole, rows, yes);
      const first = order(lesson.scores, rows.length);
      const chances = yes.some(Boolean) ? lesson.probabilities : null;
      const next = labels.size ? propose(vectors, space.whole, first, rows, PROPOSED, chances) : [];
      return { ...lesson, order: first, next, rows, yes, left: labels.size - used.length };
    },
    // Sentences; some of the work of a click, which the page does after it has drawn the answer
    said(answer) {
      const { rows = [], yes = [], left = 0 } = answer;
      const all = yes.filter(Boolean).length;
      const parts = [`${all} yes, ${yes.length - all} no.`];
      if (left) parts.push(`The last ${MOST} labels teach, the ${left} before them do not.`);
      const whole = expectations(answer, rows, yes, [10, 50, 100, 500]);
      if (!whole) {
        const more = FEW - rows.length;
        parts.push(more > 0 ? `${more} more, and a classifier learns from them.` : "Label both, to be told how sure the order is.");
        return parts.join(" ");
      }
      history.push([rows.length, whole.averagePrecision.value]);
      const counts = [...whole.first].map(([k, told]) => `${between(told, 0)} of the first ${k}`);
      parts.push(`Expected to be right: ${counts.join(", ")}; in all ${between(whole.yes, 0)}.`);
      parts.push(`Average precision of the whole order ${between(whole.averagePrecision, 2)}`);
      const own = precisionOnLabels(answer.classifier, yes);
      parts.push(own ? `(on the labels alone, each left out in turn, ${between(own, 2)}).` : ".");
      if (enough(history)) parts.push("More labels are likely to add little.");
      return parts.join(" ");
    },
  };
}

function between({ value, ciLow, ciHigh }, digits) {
  const written = (number) => number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return `${written(value)} (${written(ciLow)}–${written(ciHigh)})`;
}
