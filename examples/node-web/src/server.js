"use strict";

// Counts words: GET /words?text=… answers how often each occurs, most frequent first.

const express = require("express");
const { countBy, orderBy, toPairs, words } = require("lodash");

const app = express();

app.get("/health", (_request, response) => response.type("text/plain").send("ok\n"));

app.get("/words", (request, response) => {
  const counted = toPairs(countBy(words(String(request.query.text ?? "").toLowerCase())));
  const ordered = orderBy(counted, [([, count]) => count, ([word]) => word], ["desc", "asc"]);
  response.json(ordered.map(([word, count]) => ({ word, count })));
});

const server = app.listen(Number(process.env.PORT), process.env.HOST ?? "0.0.0.0", () =>
  console.log(`listening on port ${server.address().port}`),
);
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => server.close(() => process.exit(0)));
