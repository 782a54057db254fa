"""Asks one question of `h1r serve` twice, by majority and by DeepConf, and prints what each answered and spent.

    python ask.py "What is 12 + 30 - 7?" --url http://127.0.0.1:8000/v1 --budget 16

It needs the package `openai` and nothing of this project: DeepConf is two words in the body of a request.
"""

import argparse
import os

from openai import APIConnectionError, OpenAI


def main() -> None:
    parser = argparse.ArgumentParser(description="Majority and DeepConf on one question.")
    parser.add_argument("question")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="address of `h1r serve`, with /v1")
    parser.add_argument("--budget", type=int, default=16, help="traces of each method")
    parser.add_argument("--warmup", type=int, default=8, help="traces that set DeepConf's threshold")
    parser.add_argument("--window", type=int, help="tokens of a confidence group; the server's without it")
    parser.add_argument("--max-tokens", type=int, default=512, help="longest trace")
    given = parser.parse_args()
    client = OpenAI(base_url=given.url, api_key=os.environ.get("H1R_API_KEY", "none"))
    try:
        model = next(one.id for one in client.with_options(max_retries=0).models.list() if "@" not in one.id)
    except APIConnectionError:
        parser.exit(1, f"no server answers at {given.url}; start one with `h1r serve`, or give --url\n")
    for method in ("majority", "deepconf"):
        wanted = {"method": method, "budget": given.budget}
        if method == "deepconf":
            wanted |= {"warmup": given.warmup} | ({"window": given.window} if given.window else {})
        reply = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": given.question}],
            max_tokens=given.max_tokens,
            seed=0,
            extra_body={"deepconf": wanted},
        )
        told = reply.usage.deepconf
        votes = ", ".join(f"{one['answer']}: {one['weight']:.3g}" for one in told["votes"][:3])
        print(f"{method:9} {told['tokens']:7,} tokens, {told['stopped']} of {told['traces']} traces stopped; {votes}")


if __name__ == "__main__":
    main()
