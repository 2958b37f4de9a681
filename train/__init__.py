"""Data in, published version out: QLoRA with TRL, PEFT and bitsandbytes."""
