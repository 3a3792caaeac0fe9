"""How a model is trained: criterion, distillation, optimizer, schedulers, sharding."""
