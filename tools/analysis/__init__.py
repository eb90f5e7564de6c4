"""Looking at networks and at what they give: times, pictures, reports, exports."""
