"""A first look: three workers share a few chats, and each answer says where it ran.

Run with ``python examples/quickstart.py [MODEL]``: the embedded name (the default), a folder or a .gguf file; a GPU is used if there is one.
"""

import sys

from nanopd import LLM, SamplingParams

QUESTIONS = [
    "What is the capital of France?",
    "Name three primary colours.",
    "Why is the sky blue?",
    "Give me a word that rhymes with cat.",
]


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
    with LLM(model, workers="1C+1P+1D", num_blocks=512) as llm:
        chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
        outputs = llm.chat(chats, SamplingParams(max_tokens=40, temperature=0.0))
        for question, output in zip(QUESTIONS, outputs, strict=True):
            report = output.report
            print(
                f"{question}\n  {output.text}\n  [{report.decision.chosen.path}, first token after {report.ttft_s * 1e3:.0f} ms]\n"
            )

        print("Streamed: ", end="")
        for delta in llm.stream("Once upon a time", SamplingParams(max_tokens=30, temperature=0.6, top_p=0.9, seed=1)):
            print(delta.text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
