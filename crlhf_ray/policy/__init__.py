"""The code model: loading, presets, prompt templates, LoRA and supervised fine-tuning."""
