"""Our compiled engine beside NVIDIA's AISimulate, on the same requests and the same step law.

AISimulate (Apache-2.0) simulates the scheduling of vLLM in Rust.  It lives in an environment of
its own; a process there is asked to play a file, and our engine reads its requests from that file.
Both take turns, so that a machine that slows down slows both, and a ratio is taken within a turn.
Only CPU time of the process counts.

What both can follow exactly, and so what is played:

* first come first served, chunked prefill, preemption of the youngest, no prefix cache;
* synchronous scheduling: AISimulate has no look-ahead of a step;
* steps of one length.  AISimulate's fixed law is `prefill_ms` for a step with prefill plus
  `decode_ms` for one with decode; with `prefill_ms` 0 every step that decodes takes `decode_ms`.
  `GUARD_S` of a first request that only decodes keep the engine from standing empty at the start.
  Where a later step without decode came, times would part by a step, and be counted.

AISimulate has no null block: it gets one KV block less than vLLM, which cannot use that one.
"""
