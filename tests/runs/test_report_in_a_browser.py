"""A browser renders the report completely and without a network."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest

from skd_tf.runs import report
from tests.helpers.report_runs import make_run

_PROBE = """<!doctype html><title>probe</title><link rel="icon" href="data:,">
<iframe id="f" style="border:0;height:900px"></iframe><pre id="out"></pre><script>
const frame = document.getElementById("f"), found = [];
async function show(page, width) {
  frame.style.width = width + "px";
  await new Promise(done => { frame.onload = done; frame.src = page + "?" + width; });
  await new Promise(done => setTimeout(done, 200));
  const page_ = frame.contentDocument, view = frame.contentWindow;
  const broken = [...page_.images].filter(i => !i.complete || !i.naturalWidth).length;
  const flat = [...page_.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height < 50).length;
  found.push({page, width, inner: view.innerWidth, scroll: page_.documentElement.scrollWidth, broken, flat,
              charts: page_.querySelectorAll("svg").length,
              requests: view.performance.getEntriesByType("resource").length});
}
(async () => {
  for (const page of ["one.html", "all.html"]) for (const width of [375, 1280]) await show(page, width);
  document.getElementById("out").textContent = "FOUND" + JSON.stringify(found) + "END";
})();
</script>"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments, asked, **options):
        self.asked = asked
        super().__init__(*arguments, **options)

    def log_message(self, *parts):
        self.asked.append(self.path)


@pytest.mark.slow
def test_a_browser_renders_it_completely(tmp_path):
    """In headless Chromium: no broken image, console error, request or horizontal scrolling, on phone and desktop."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    long = [make_run(tmp_path, seed=i, name=f"run_with_a_rather_long_name_{i}_" + "x" * 60) for i in range(3)]
    report.write(long[:1], tmp_path / "one.html")
    report.write(long, tmp_path / "all.html")
    (tmp_path / "probe.html").write_text(_PROBE)
    asked = []
    handler = functools.partial(_Handler, asked=asked, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
        options += ["--enable-logging=stderr", "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [browser, *options, f"http://127.0.0.1:{server.server_port}/probe.html"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    finally:
        server.shutdown()
    match = re.search(r"FOUND(.*)END", done.stdout)
    assert match, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(match[1])
    pages = [(page, width) for page in ("one.html", "all.html") for width in (375, 1280)]
    assert [(row["page"], row["width"]) for row in found] == pages
    for row in found:
        assert row["inner"] == row["width"] and row["scroll"] <= row["width"], row
        assert row["broken"] == row["flat"] == row["requests"] == 0 and row["charts"] > 10, row
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert {path.partition("?")[0] for path in asked} <= {"/probe.html", "/one.html", "/all.html"}
