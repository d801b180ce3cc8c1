"""The model learns: advantages, losses, KL control, batching, and the DeepSpeed learner group."""
