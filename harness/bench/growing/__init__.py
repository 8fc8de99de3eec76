"""What grows: lines through what was measured, and the model that reaches beyond it."""
