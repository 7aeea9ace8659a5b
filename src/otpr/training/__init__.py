"""The loops (pretrain, finetune, evaluate), run directories and checkpoints."""
