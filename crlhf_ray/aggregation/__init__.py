"""Who is right: estimators of line correctness and annotator reliability, and the actor that holds their state."""
