// Say what to do where the page was opened as a file: from there a browser loads no modules. The answers made in advance stay.
(function () {
  const root = document.getElementById("rsvlm-search");
  if (location.protocol !== "file:") return;
  root.dataset.state = "failed";
  root.querySelector('[data-part="status"]').textContent =
    "A browser searches only in pages that come from a web server. In the folder of this page, start one with “python -m http.server " +
    "--bind 127.0.0.1”, and open the address that it prints. Below are answers made in advance.";
})();
