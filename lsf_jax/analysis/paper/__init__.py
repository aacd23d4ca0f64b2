"""The paper's figures, reproduced: what they claim (configs/paper), results that survive machines, verdicts, pages."""
