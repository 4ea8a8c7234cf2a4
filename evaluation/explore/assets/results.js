// Every query with its nearest tracks: data.answers = [{query, sound, nearest: [{path, score, sound}]}].
for (const answer of data.answers) {
  const card = make("article");
  const head = make("div", "track");
  const words = make("div");
  if (answer.sound >= 0) head.append(player.button(answer.sound, nameOf(answer.query), true));
  words.append(make("h3", "", answer.sound >= 0 ? nameOf(answer.query) : answer.query));
  if (answer.sound >= 0) words.append(make("p", "soft", answer.query));
  head.append(words);
  const rows = make("ol", "rows");
  rows.append(...answer.nearest.map((hit) => trackRow(hit.sound, nameOf(hit.path), hit.path, hit.score)));
  card.append(head, rows);
  if (!answer.nearest.length) card.append(make("p", "soft", "nothing found"));
  get("answers").append(card);
}
