"""An evaluation of policies: summary, report and pictures."""
