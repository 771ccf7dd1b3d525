// What comes back: an answer put together from the events of its stream, in the forms that chats and completions have them.

/** Adds what an event's choice holds to a turn. `held`: facts of tokens whose text is not whole yet. Returns whether there is more text. */
export function hear(turn, choice, held) {
  const said = choice.delta?.content ?? choice.text ?? "";
  held.push(...(choice.logprobs?.content ?? listed(choice.logprobs)));
  for (const call of choice.delta?.tool_calls ?? []) join(turn, call);
  if (!said) return false;
  turn.content += said;
  turn.tokens.push([said, held.splice(0)]);
  return true;
}

/** The facts of a completion's tokens in the chat's form. */
function listed(logprobs) {
  return (logprobs?.tokens ?? []).map((token, number) => ({
    token,
    logprob: logprobs.token_logprobs[number],
    top_logprobs: Object.entries(logprobs.top_logprobs?.[number] ?? {}).map(([other, logprob]) => ({ token: other, logprob })),
  }));
}

function join(turn, { index, ...piece }) {
  const call = (turn.tool_calls[index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
  if (piece.id) call.id = piece.id;
  call.function.name += piece.function?.name ?? "";
  call.function.arguments += piece.function?.arguments ?? "";
}

/** Drops the calls that an answer which was cut or broken off has not finished: half a call cannot be sent again. */
export function wholeCalls(turn) {
  turn.tool_calls = turn.tool_calls.filter((call) => {
    try {
      return Boolean(JSON.parse(call.function.arguments));
    } catch {
      return false;
    }
  });
}
