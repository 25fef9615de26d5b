"""The first published cost model of this design, kept as a baseline.

Its formula and its two published parameter columns (Qwen3-8B on RTX 4090 and on H20). What it leaves out is why it is only a baseline: prompt and
output length cancel out of the decision, nothing waits in a queue, a step does not depend on context length, and gamma measures the prefill again.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OriginalParameters:
    """The five measured parameters, and the bytes of KV one token takes."""

    alpha_ms: float  # per prompt token of prefill
    beta_ms: float  # per decode step at batch 1
    batch_thresh: int  # batch size up to which a decode step costs beta
    gamma_ms: float  # harm to running decodes per prefilled token
    bandwidth_gb_s: float  # of the KV transfer
    bytes_per_token: int

    @property
    def transfer_ms_per_token(self) -> float:
        return self.bytes_per_token / (self.bandwidth_gb_s * 1e6)

    @property
    def crossover_load(self) -> float:
        """Running requests from which disaggregation wins; it depends on nothing else."""
        return self.batch_thresh * self.transfer_ms_per_token / self.gamma_ms

    def step_ms(self, batch: int) -> float:
        """Milliseconds of a decode step of ``batch`` sequences."""
        return self.beta_ms if batch <= self.batch_thresh else self.beta_ms * batch / self.batch_thresh

    def collocated_ms(self, prompt_len: int, output_len: float, load: int) -> float:
        """Expected milliseconds of a request on a worker where ``load`` others run."""
        harm = self.gamma_ms * prompt_len * min(load, self.batch_thresh) / self.batch_thresh if load > 0 else 0.0
        return self.alpha_ms * prompt_len + self.step_ms(max(load, 1)) * output_len + harm

    def disaggregated_ms(self, prompt_len: int, output_len: float, decode_batch: int) -> float:
        """Expected milliseconds of a request whose KV moves to a worker that decodes ``decode_batch`` others."""
        transfer = self.transfer_ms_per_token * prompt_len
        return self.alpha_ms * prompt_len + transfer + self.step_ms(decode_batch + 1) * output_len


RTX_4090 = OriginalParameters(0.12472, 51.560, 16, 0.08691, 12.896, 147_456)  # Qwen3-8B, pinned relay
H20 = OriginalParameters(0.14518, 33.103, 16, 0.13024, 392.15, 147_456)  # Qwen3-8B, peer to peer
CPU = OriginalParameters(
    1.0, 30.0, 16, 1.0, 2.0, 46_080
)  # SmolLM2-135M on two cores, rounded; `nanopd profile` measures the real ones
