"""The model learns: PPO on DeepSpeed ranks, from token rewards to new weights.

advantage, kl, loss     the mathematics: pure, no Ray, no torch.distributed
batching                which samples share a forward pass: minibatches, ranks, packed prompt trees
forward                 the policy, its frozen reference and the value head over packed trees
worker                  one DeepSpeed rank (the only file that knows DeepSpeed)
checkpoint              which checkpoint is the last whole one
group                   the ranks as Ray actors: `LearnerGroup`
"""
