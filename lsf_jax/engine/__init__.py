"""What every algorithm shares: choosing actions, playing episodes, replay, returns, the update, the train step."""
