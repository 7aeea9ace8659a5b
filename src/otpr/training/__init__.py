"""The loops (pretrain, finetune, evaluate) and what they leave behind: run directories and checkpoints."""
