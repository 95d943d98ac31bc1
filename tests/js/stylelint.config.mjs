// What is wrong in a style sheet; how it is laid out is not looked at.
export default {
  extends: "stylelint-config-recommended",
  rules: { "no-descending-specificity": null }, // sheets are short enough to be read as a whole
};
