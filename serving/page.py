"""The page at ``/``: the service's OpenAPI document in Swagger UI, of files that BentoML brings along.

It takes the place of BentoML's own page, which loads Google Tag Manager. Swagger UI would ask its makers' validator for a badge; ``validatorUrl``
turns that off. A content security policy forbids every other address.
"""

from __future__ import annotations

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The content security policy of the page."""

SCRIPT_PATH = "/page.js"

PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Prediction service</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
<link rel="icon" type="image/png" href="./static_content/favicon-light-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js" charset="utf-8"></script>
<script src="./page.js"></script>
</body>
</html>
"""

SCRIPT = b"""window.ui = SwaggerUIBundle({
  url: "./docs.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""

HTML_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
]
SCRIPT_HEADERS = [(b"content-type", b"text/javascript; charset=utf-8")]
