"""What runs a trained model: packed models, fused layers, CUDA graphs, the generator."""
