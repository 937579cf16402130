// Starts the page, or says why it can't: its libraries are made at build time and may be missing.

import("/static/app.js").then(
  (app) => app.start(document.getElementById("app")),
  (error) => {
    document.getElementById("boot").textContent =
      "The page's libraries (streams/static/vendor) are missing or broken. They come from npm when livejobs is built: " +
      `install Node.js with npm, run \`make\` again, and start the web view anew. The API works without them. (${error})`;
  },
);
