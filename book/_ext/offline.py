"""Makes pages that need no other host: formulas as MathML, which browsers draw by themselves, and no script of Thebe's."""

import re
from html import escape

from docutils import nodes
from latex2mathml.converter import convert

_NAMED = re.compile(r"(<mi>(?:arg|cos|exp|lim|ln|log|max|min|sin|tan)</mi>)(?=<m(?:i|n|sub|sup|over|frac|sqrt)\b)")


def _mathml(source: str, display: str) -> str:
    # The converter knows one environment of aligned lines, and numbers none.
    text = re.sub(r"\\(begin|end)\{(?:align|aligned|gather|gathered|split)\*?\}", r"\\\1{align*}", source)
    text = re.sub(r"\\(?:begin|end)\{equation\*?\}", "", text)
    # Browsers leave no space between the name of a function and its argument.
    markup = _NAMED.sub(r'\1<mspace width="0.167em"/>', convert(text, display=display))
    # The LaTeX source doubles as the text of the formula for readers that cannot draw MathML.
    return markup.replace("<math ", f'<math aria-label="{escape(source.strip(), quote=True)}" ', 1)


def visit_inline(self, node: nodes.math) -> None:
    self.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(self, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math-block"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({node["number"]})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(f"<div>{_mathml(node.astext(), 'block')}</div></div>\n")
    raise nodes.SkipNode


def drop_thebe(app, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Leave out the scripts that Jupyter Book adds for live kernels: they come from another host, and we start none."""

    def ours(script) -> bool:
        return "thebe" not in f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {}).get('body', '')}"

    context["script_files"] = [script for script in context.get("script_files", []) if ours(script)]
    if "body" in context:
        context["body"] = re.sub(r'<script type="text/x-thebe-config">.*?</script>', "", context["body"], flags=re.DOTALL)
        context["body"] = re.sub(r"<script>kernelName = '[^']*'</script>", "", context["body"])


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
